// Opened from a file, a page may not fetch others: the search then lists what it has found without excerpts
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
