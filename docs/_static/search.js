// The search, as one types: in the sidebar, and on a page of its own
(() => {
  const {load, find, context, root} = sections
  const element = (name, parts, facts = {}) => {
    const made = Object.assign(document.createElement(name), facts)
    made.append(...parts)
    return made
  }

  // A line of context, with the words that were asked for
  function marked({text, places}) {
    const parts = []
    let at = 0
    for (const [from, to] of places) {
      if (from < at) continue
      parts.push(text.slice(at, from), element('mark', [text.slice(from, to)]))
      at = to
    }
    return element('p', [...parts, text.slice(at)])
  }

  function item(found) {
    const {entry: [, heading, anchor], page: [file, title]} = found
    const link = element('a', [heading || title], {href: root + file + (anchor && `#${anchor}`)})
    return element('li', [link, ...(anchor ? [' ', element('span', [title])] : []), marked(context(found))])
  }
  const later = (call, ms, timer) => () => { clearTimeout(timer); timer = setTimeout(call, ms) }

  // Its own page
  const list = document.getElementById('search-results')
  if (list) {
    const box = document.getElementById('search-words'), status = document.getElementById('search-status')
    const show = async () => {
      const question = box.value.trim()
      const here = question ? `?q=${encodeURIComponent(question)}` : location.pathname
      if (location.protocol != 'file:') history.replaceState(null, '', here)
      const found = question ? find(question, await load()) : []
      list.replaceChildren(...found.map(item))
      const pages = new Set(found.map(o => o.page)).size
      const count = (n, name) => `${n} ${name}${n > 1 ? 's' : ''}`
      status.textContent = !question ? 'A name, such as find_ticket, or a task, such as exclude a layer.'
        : found.length ? `${count(found.length, 'place')} on ${count(pages, 'page')}`
        : `Nothing found for “${question}”. Fewer or other words may help.`
      list.dataset.done = question
    }
    box.value = new URLSearchParams(location.search).get('q') ?? ''
    box.addEventListener('input', later(show, 120))
    box.form.addEventListener('submit', o => { o.preventDefault(); show() })
    document.querySelector('.sidebar-search')?.form.addEventListener('submit', o => {
      o.preventDefault()
      box.value = o.target.q.value
      show()
    })
    show()
    box.focus()
    return
  }

  // In the sidebar, as one types
  const box = document.querySelector('.sidebar-search')
  if (!box) return
  const facts = {className: 'search-panel', hidden: true, role: 'region', ariaLabel: 'Search results'}
  const panel = element('div', [], facts)
  box.form.after(panel)
  const show = async () => {
    const question = box.value.trim()
    const found = question.length > 1 ? find(question, await load()).slice(0, 6) : []
    const all = found.length ? 'All results' : `Nothing found for “${question}”`
    panel.replaceChildren(element('ol', found.map(item)),
                          element('a', [all], {href: `${box.form.action}?q=${encodeURIComponent(question)}`}))
    panel.style.top = `${box.form.getBoundingClientRect().bottom + 4}px`
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
