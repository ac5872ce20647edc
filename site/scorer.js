// How search results are ranked: Sphinx's own points, and more for a page or section whose title holds the query.
"use strict";
var Scorer = {
  score: ([, title, , , points]) => {
    const query = (new URLSearchParams(location.search).get("q") || "").trim().toLowerCase();
    return points + (query && title.toLowerCase().includes(query) ? 20 : 0);
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
