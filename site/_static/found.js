// Under each page that the search finds: the sections that hold the words, with a piece of their text.
// Reads sections.js, not the pages, so that it works for a site that is opened as a file, too.
"use strict";
const asked = (new URLSearchParams(location.search).get("q") || "").toLowerCase();
const HAN = "\u3400-\u4dbf\u4e00-\u9fff";
let wanted = [];

// The beginning that the forms of an English word share: clipping, clipped and clip are found by "clip".
function stem(word) {
  const short = new Stemmer().stemWord(word);
  return word.startsWith(short) ? short : short.replace(/[iy]$/, "");
}

const bare = (text) => text.toLowerCase().replace(/\s+/g, ""); // KL惩罚 is KL 惩罚

// Words of the query; Chinese as it stands, English without its endings.
const split = () =>
  (asked.match(new RegExp(`[${HAN}]+|[a-z0-9_\u00c0-\u024f\u0370-\u03ff]+`, "g")) || []).map((word) =>
    new RegExp(`[${HAN}]`).test(word) ? word : stem(word),
  );

// How many of the words a section holds; those in its title count twice, the query as a whole once more.
const points = ([, title, text]) => {
  const [high, low] = [title.toLowerCase(), text.toLowerCase()];
  let sum = bare(title).includes(bare(asked)) ? 3 : bare(text).includes(bare(asked)) ? 2 : 0;
  for (const word of wanted) sum += high.includes(word) ? 2 : low.includes(word) ? 1 : 0;
  return sum;
};

// A piece of `text` around the first of the words, with all of them marked.
const piece = (text) => {
  const low = text.toLowerCase();
  const whole = low.indexOf(asked.trim());
  const places = wanted.map((word) => low.indexOf(word)).filter((place) => place >= 0);
  const from = places.length ? Math.max(0, (whole >= 0 ? whole : Math.min(...places)) - 60) : 0;
  const shown = document.createElement("p");
  shown.className = "context";
  const words = [...wanted].sort((a, b) => b.length - a.length);
  const either = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&") + (word.match(/[a-z]$/) ? "[a-z]*" : ""));
  const rest = (from ? "…" : "") + text.slice(from, from + 200) + (from + 200 < text.length ? "…" : "");
  rest.split(new RegExp(`(${either.join("|")})`, "i")).forEach((part, place) => {
    if (place % 2) shown.appendChild(document.createElement("mark")).textContent = part;
    else shown.append(part);
  });
  return shown;
};

const explain = (item) => {
  const link = item.querySelector(":scope > a");
  const [page, anchor] = link.getAttribute("href").split("#");
  const sections = SECTIONS[decodeURIComponent(page).replace(/\.html$/, "")] || [];
  if (anchor) {
    const own = sections.find(([id]) => id === anchor);
    if (!own) return;
    if (anchor.startsWith("term-")) link.textContent = `${link.textContent} > ${own[1]}`;
    item.querySelector(":scope > span")?.remove(); // "in glossary", which the title says
    item.append(piece(own[2]));
    return;
  }
  const ranked = sections.map((each, place) => [points(each), -place, each]).filter(([sum]) => sum > 0);
  ranked.sort((a, b) => b[0] - a[0] || b[1] - a[1]);
  const most = ranked.length ? ranked[0][0] : 0;
  for (const [, , [id, title, text]] of ranked.filter(([sum]) => sum * 2 > most).slice(0, 3)) {
    const part = item.appendChild(document.createElement("div"));
    part.className = "found-section";
    const way = part.appendChild(document.createElement("a"));
    way.href = id ? `${page}#${id}` : page;
    way.textContent = title || link.textContent;
    if (text) part.append(piece(text));
  }
};

document.addEventListener("DOMContentLoaded", () => {
  wanted = split(); // not before: the stemmer comes with a later script
  if (!wanted.length) return;
  const results = document.getElementById("search-results");
  results.querySelectorAll("ul.search > li").forEach(explain); // the first is there already
  new MutationObserver((changes) => {
    for (const { addedNodes } of changes)
      for (const node of addedNodes) if (node.matches?.("ul.search > li")) explain(node);
  }).observe(results, { childList: true, subtree: true });
});
