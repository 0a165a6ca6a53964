// The search, as one types: in the sidebar, and on a page of its own
(() => {
  const {load, find, context, root} = sections
  function marked(text, asked) {
    const line = document.createElement('p'), ends = []
    for (const o of asked) for (const way of o.ways) for (const m of text.matchAll(way.re)) ends.push([m.index, m.index + m[0].length])
    let at = 0
    for (const [from, to] of ends.sort((a, b) => a[0] - b[0])) {
      if (from < at) continue
      const mark = document.createElement('mark')
      mark.textContent = text.slice(from, to)
      line.append(text.slice(at, from), mark)
      at = to
    }
    line.append(text.slice(at))
    return line
  }
  function item(found) {
    const {entry: [, heading, anchor], page} = found
    const li = document.createElement('li'), a = document.createElement('a')
    a.href = root + page[0] + (anchor ? `#${anchor}` : '')
    a.textContent = heading || page[1]
    li.append(a)
    if (anchor) {
      const where = document.createElement('span')
      where.textContent = page[1]
      li.append(' ', where)
    }
    const {text, asked} = context(found)
    li.append(marked(text, asked))
    return li
  }
  const later = (call, ms, timer) => () => { clearTimeout(timer); timer = setTimeout(call, ms) }

  // Its own page
  const list = document.getElementById('search-results')
  if (list) {
    const box = document.getElementById('search-words'), status = document.getElementById('search-status')
    const show = async () => {
      const question = box.value.trim()
      if (location.protocol != 'file:') history.replaceState(null, '', question ? `?q=${encodeURIComponent(question)}` : location.pathname)
      const found = question ? find(question, await load()) : []
      list.replaceChildren(...found.map(item))
      const pages = new Set(found.map(o => o.page)).size
      status.textContent = !question ? 'A name, such as find_ticket, or a task, such as exclude a layer.' :
        found.length ? `${found.length} place${found.length > 1 ? 's' : ''} on ${pages} page${pages > 1 ? 's' : ''}` :
        `Nothing found for “${question}”. Fewer or other words may help.`
      list.dataset.done = question
    }
    box.value = new URLSearchParams(location.search).get('q') ?? ''
    box.addEventListener('input', later(show, 120))
    box.form.addEventListener('submit', o => { o.preventDefault(); show() })
    document.querySelector('.sidebar-search')?.form.addEventListener('submit', o => {
      o.preventDefault(); box.value = o.target.q.value; show()
    })
    show()
    box.focus()
    return
  }

  // In the sidebar, as one types
  const box = document.querySelector('.sidebar-search')
  if (!box) return
  const panel = document.createElement('div')
  panel.className = 'search-panel'
  panel.hidden = true
  panel.setAttribute('role', 'region')
  panel.setAttribute('aria-label', 'Search results')
  box.form.after(panel)
  const show = async () => {
    const question = box.value.trim()
    const found = question.length > 1 ? find(question, await load()).slice(0, 6) : []
    const results = document.createElement('ol'), all = document.createElement('a')
    results.append(...found.map(item))
    all.href = `${box.form.action}?q=${encodeURIComponent(question)}`
    all.textContent = found.length ? 'All results' : `Nothing found for “${question}”`
    panel.replaceChildren(results, all)
    panel.hidden = question.length < 2
  }
  box.addEventListener('focus', load, {once: true})
  box.addEventListener('input', later(show, 120))
  box.form.addEventListener('keydown', o => {
    if (o.key == 'ArrowDown' && !panel.hidden) { o.preventDefault(); panel.querySelector('a')?.focus() }
  })
  panel.addEventListener('keydown', o => {
    const step = {ArrowDown: 1, ArrowUp: -1}[o.key]
    if (!step) return
    o.preventDefault()
    const links = [...panel.querySelectorAll('a')], to = links.indexOf(document.activeElement) + step;
    (to < 0 ? box : links[Math.min(to, links.length - 1)]).focus()
  })
  document.addEventListener('keydown', o => { if (o.key == 'Escape') panel.hidden = true })
  document.addEventListener('click', o => { if (!panel.contains(o.target) && o.target != box) panel.hidden = true })
  panel.addEventListener('click', o => { if (o.target.closest('a')) panel.hidden = true })
})()
