// From a file a browser opens what it should download: the notebook then comes as a script
for (const a of document.querySelectorAll('a[download]')) if (location.protocol === 'file:') a.addEventListener('click', event => {
  event.preventDefault()
  const script = document.createElement('script')
  script.src = a.href.replace(/ipynb$/, 'js')
  script.onload = () => {
    const link = document.createElement('a')
    link.href = URL.createObjectURL(new Blob([window.notebook], {type: 'application/x-ipynb+json'}))
    link.download = a.href.split('/').pop()
    link.click()
  }
  document.head.append(script)
});

// Where the site itself has what pip installs, its address is the one that this page was opened from
{
  const root = new URL(document.documentElement.dataset.content_root, location.href)
  const where = root.protocol === 'file:' ? decodeURIComponent(root.pathname) : root.href
  const text = document.createTreeWalker(document.querySelector('article') ?? document.body, NodeFilter.SHOW_TEXT)
  while (text.nextNode()) if (text.currentNode.parentElement.closest('pre'))
    text.currentNode.data = text.currentNode.data.replace(/^(?=\w+-[\d.]+-py3-none-any\.whl)/, where)
}
