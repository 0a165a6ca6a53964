// Which sections answer a question. Their index, which look.py writes, is a script that is loaded when it is first
// asked for: a page that was opened from a file may load scripts, and nothing else
const sections = (() => {
  const root = document.documentElement.dataset.content_root
  const STOP = new Set('a an and are can do for from how i in into is it my of on or the to use what with'.split(' '))
  let loading
  const load = () => loading ??= new Promise((done, failed) => {
    const script = document.createElement('script')
    Object.assign(script, {onload: () => done(window.searchIndex), onerror: failed})
    script.src = `${root}_static/search_index.js`
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
    const all = question.toLowerCase().split(/\s+/).map(o => o.replace(/^\W+|\W+$/g, '')).filter(Boolean)
    const kept = all.filter(o => !STOP.has(o))
    return (kept.length ? kept : all).map(word => {
      const also = [word, stem(word), word.replace(/s$/, '')].map(o => Object.hasOwn(words, o) && words[o])
      const others = (also.find(Boolean) ?? []).map(o => ({re: pattern(o), share: .75}))
      return {number: /^[\d.]+$/.test(word), ways: [{re: pattern(word), share: 1}, ...others]}
    })
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
    const best = (e, ways) => Math.max(...ways.map(way => value(e, index.pages[e[0]], way)))
    const seen = asked.map(o => index.entries.map(e => best(e, o.ways)))
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
      return {entry, page, asked, has, score: score * page[2] * entry[5] * has ** 3}
    }).filter(o => o.score > 0).sort((a, b) => b.score - a.score)
    const most = Math.max(...found.map(o => o.has)), pages = new Map()
    return found.filter(o => {
      const n = pages.get(o.page) ?? 0
      pages.set(o.page, n + 1)
      return n < 3 && o.has >= .5 * most
    }).slice(0, 40)
  }

  // The line around the first word that was found, and where in it the words are
  function context({entry, asked}) {
    const whole = entry[3] || entry[4], ways = asked.flatMap(o => o.ways)
    const firsts = ways.flatMap(o => [...whole.matchAll(o.re)].slice(0, 1).map(m => ({at: m.index, share: o.share})))
    const first = firsts.sort((a, b) => b.share - a.share || a.at - b.at)[0]?.at ?? 0
    let from = Math.max(0, first - 70), to = Math.min(whole.length, from + 190)
    if (from) from = whole.indexOf(' ', from) + 1
    if (to < whole.length) to = Math.max(whole.lastIndexOf(' ', to), first + 20)
    const text = (from ? '… ' : '') + whole.slice(from, to) + (to < whole.length ? ' …' : '')
    const places = ways.flatMap(o => [...text.matchAll(o.re)].map(m => [m.index, m.index + m[0].length]))
    return {text, places: places.sort((a, b) => a[0] - b[0])}
  }
  return {load, find, context, root}
})()
