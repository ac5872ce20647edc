// Keeps the reader's place when the language is switched: sections have the same ids in both languages.
// Without scripts the link still leads to the same page.
"use strict";
const link = document.querySelector("a.language-switch");

const sectionInSight = () => {
  const marks = [...document.querySelectorAll("article span[id], article section[id]")];
  const above = marks.filter(
    (mark) => /(^|-)s-\d+$/.test(mark.id) && mark.getBoundingClientRect().top < 120,
  );
  return above.length > 1 ? above[above.length - 1].id : ""; // the first is the title: the top of the page
};

for (const each of document.querySelectorAll("a.language-switch"))
  for (const kind of ["pointerdown", "click", "focus"])
    each.addEventListener(kind, () => {
      each.hash = sectionInSight();
      if (location.search && /search\.html$/.test(location.pathname)) each.search = location.search;
    });

if (link)
  try {
    localStorage.setItem("course-language", link.dataset.language === "zh" ? "en" : "zh");
  } catch {
    // a browser that keeps nothing: the first page asks again
  }

// On paper the pages are always light: printers leave grounds out, and light letters would be lost.
const shown = document.documentElement.dataset;
let before = shown.theme;
addEventListener("beforeprint", () => {
  before = shown.theme;
  shown.theme = "light";
});
addEventListener("afterprint", () => (shown.theme = before));
