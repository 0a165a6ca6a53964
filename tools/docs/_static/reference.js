// Where the site itself has what pip installs, its address is the one that this page was opened from
(() => {
  const root = new URL(document.documentElement.dataset.content_root, location.href)
  const where = root.protocol === 'file:' ? decodeURIComponent(root.pathname) : root.href
  const text = document.createTreeWalker(document.querySelector('article') ?? document.body, NodeFilter.SHOW_TEXT)
  while (text.nextNode()) if (text.currentNode.parentElement.closest('pre'))
    text.currentNode.data = text.currentNode.data.replace(/^(?=\w+-[\d.]+-py3-none-any\.whl)/, where)
})()
