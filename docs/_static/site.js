// What scrolls sideways fades where it goes on, and can be reached and scrolled with the keyboard
(() => {
  const kinds = {Code: '.highlight pre', Picture: '.picture',
    Table: '.table-wrapper, .text_html, .text_html [style*=overflow]'}
  function mark(box, kind) {
    const rest = box.scrollWidth - box.clientWidth
    box.classList.toggle('more-left', rest > 1 && box.scrollLeft > 1)
    box.classList.toggle('more-right', rest > 1 && box.scrollLeft < rest - 1)
    const said = {tabindex: '0', role: 'group', 'aria-label': `${kind}, scrolls sideways`}
    for (const [name, value] of Object.entries(said)) {
      if (rest > 1) box.setAttribute(name, value)
      else box.removeAttribute(name)
    }
  }
  const sizes = new ResizeObserver(all => all.forEach(o => mark(o.target, o.target.kind)))
  const observe = (box, kind) => {
    box.kind = kind
    sizes.observe(box)
    box.addEventListener('scroll', () => mark(box, kind), {passive: true})
    // outside of it these keys turn the page
    box.addEventListener('keydown', o => {
      if (/^Arrow(Left|Right)$/.test(o.key) && box.tabIndex >= 0) o.stopPropagation()
    })
    box.querySelectorAll('img').forEach(o => o.addEventListener('load', () => mark(box, kind)))
  }
  const article = document.querySelector('article')
  for (const [kind, selector] of Object.entries(kinds))
    article.querySelectorAll(selector).forEach(o => observe(o, kind))

  // Two columns of one kind have a name each
  for (const [name, said] of [['sidebar', 'Pages'], ['toc', 'On this page']])
    document.querySelector(`.${name}-drawer`)?.setAttribute('aria-label', said)

  // The sidebar opens where one is
  const tree = document.querySelector('.sidebar-scroll'), here = tree?.querySelector('.current-page > a')
  if (here) {
    const at = here.getBoundingClientRect(), box = tree.getBoundingClientRect()
    if (at.bottom > box.bottom - 40) tree.scrollTo({top: at.top - box.top - box.height / 3, behavior: 'instant'})
  }
})()
