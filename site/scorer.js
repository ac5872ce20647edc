// How search results are ranked: Sphinx's own points, and more for a page or section whose title holds the query,
// and for a page that holds all of it in one piece (sections.js has the words of all pages).
"use strict";
var Scorer = {
  score: ([page, title, , , points, , kind]) => {
    const bare = (text) => text.toLowerCase().replace(/\s+/g, "");
    const query = bare(new URLSearchParams(location.search).get("q") || "");
    const sections = kind === "text" && typeof SECTIONS === "object" ? SECTIONS[page] || [] : [];
    const holding = query ? sections.filter((each) => bare(each[1] + each[2]).includes(query)).length : 0;
    return points + (query && bare(title).includes(query) ? 20 : 0) + Math.min(holding, 10);
  },
  objNameMatch: 31, // a term of the glossary comes first
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
