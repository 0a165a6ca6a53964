// Finds sections: as one types in the sidebar, and on the search's own page. The index is a script that is loaded when
// it is first asked for, so that all of this works from a file too.
(() => {
  const root = document.documentElement.dataset.content_root
  const STOP = new Set('a an and are can do does for from how i in into is it my of on or the to use using what with'.split(' '))
  let loading
  const load = () => loading ??= new Promise((done, failed) => {
    const script = document.createElement('script')
    Object.assign(script, {src: `${root}_static/search_index.js`, onload: () => done(window.searchIndex), onerror: failed})
    document.head.append(script)
  })

  const escape = text => text.replace(/[.*+?^${}()|[\]\\\/]/g, '\\$&')
  const stem = word => /^[a-z]{5,}$/.test(word) ? word.replace(/(?<=.{4})(ings?|ed|es|s|e)$/, '') : word
  // A pattern for a word or words: from the beginning of a word on; what follows its stem is group 1
  const pattern = words => new RegExp('(?<![a-z0-9])' + words.toLowerCase().split(/[\s_-]+/)
    .map(o => escape(stem(o))).join('[a-z]*[\\s_-]*') + '([a-z0-9]*)', 'gi')
  const ENDS = new Set(['', 's', 'es', 'e', 'ed', 'd', 'ing'])

  // The words of a question, each with what else our pages call it
  function parse(question, words) {
    const all = question.toLowerCase().split(/\s+/).map(o => o.replace(/^[^\w@]+|[^\w)]+$/g, '').replace(/\(\)$/, '')).filter(Boolean)
    const kept = all.filter(o => !STOP.has(o))
    return (kept.length ? kept : all).map(word => ({word, number: /^[\d.]+%?$/.test(word), ways: [{re: pattern(word), share: 1},
      ...(words[word] ?? words[stem(word)] ?? words[word.replace(/s$/, '')] ?? []).map(o => ({re: pattern(o), share: .75}))]}))
  }

  // How much a field says about a word: whole words more than beginnings
  function hits(re, text, whole, part, most) {
    let found = 0, count = 0
    for (const m of text.matchAll(re)) {
      found = Math.max(found, ENDS.has(m[1]) ? whole : part)
      if (++count == most) break
    }
    return found * (1 + .15 * (count - 1))
  }
  const split = name => name.replace(/([a-z])([A-Z])/g, '$1 $2')
  function value(entry, page, {re, share}) {
    const [, heading, , text, code] = entry
    return share * Math.max(hits(re, heading, 16, 8, 1), hits(re, split(heading), 10, 6, 1), hits(re, page[1], 9, 5, 1),
                            hits(re, text, 3, 1, 6), hits(re, code, 1, .5, 3))
  }

  function find(question, index) {
    const asked = parse(question, index.words)
    if (!asked.length) return []
    const seen = asked.map(o => index.entries.map(e => Math.max(...o.ways.map(way => value(e, index.pages[e[0]], way)))))
    const rare = seen.map(o => Math.log(2 + o.length / (1 + o.filter(Boolean).length)))
    const need = asked.map(o => o.number ? .25 : 1), all = need.reduce((a, b) => a + b)
    const whole = pattern(question.trim())
    const found = index.entries.map((entry, i) => {
      const page = index.pages[entry[0]]
      const has = seen.reduce((sum, o, j) => sum + (o[i] ? need[j] : 0), 0) / all
      let score = seen.reduce((sum, o, j) => sum + rare[j] * o[i] * need[j], 0)
      if (entry[1].toLowerCase() == question.trim().toLowerCase()) score += 60
      else if (asked.length > 1 && value(entry, page, {re: whole, share: 1}) > 2) score *= 1.5
      if (!entry[2]) score *= 1.4 // what a page begins with
      return {entry, page, asked, has, score: score * page[2] * has ** 3}
    }).filter(o => o.score > 0).sort((a, b) => b.score - a.score)
    const most = Math.max(...found.map(o => o.has)), pages = new Map()
    return found.filter(o => {
      const n = pages.get(o.page) ?? 0
      pages.set(o.page, n + 1)
      return n < 3 && o.has >= .5 * most
    }).slice(0, 40)
  }

  // The line around the first word that was found, and where the words are in it
  function context({entry, asked}) {
    const text = entry[3] || entry[4]
    const places = asked.flatMap(o => o.ways.flatMap(way => [...text.matchAll(way.re)].slice(0, 1).map(m => ({at: m.index, share: way.share}))))
    const first = places.sort((a, b) => b.share - a.share || a.at - b.at)[0]?.at ?? 0
    let from = Math.max(0, first - 70)
    if (from) from = text.indexOf(' ', from) + 1 || from
    let to = Math.min(text.length, from + 190)
    if (to < text.length) to = Math.max(text.lastIndexOf(' ', to), first + 20)
    return {text: (from ? '… ' : '') + text.slice(from, to) + (to < text.length ? ' …' : ''), asked}
  }
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
