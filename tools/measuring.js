// Measures every slide of one of Marp's pages, from inside the page: tools/measuring.py puts it there and reads
// what it posts. Numbers are px of a slide of 1280 × 720, however large it is drawn.
"use strict";

const MARGIN = { right: 40, foot: 44, pictureFoot: 30 };
const READABLE = { text: 18, picture: 10 }; // smallest letters: of the slide, and within a picture
const PICTURE = { width: 420, height: 150 };
const BLOCKS = "h1,h2,h3,p,li,td,th,pre,blockquote,footer,header,figure";
const HIDDEN = "mjx-assistive-mml,script,style,title,desc,template"; // formulas once more, for screen readers
const CONTRAST = 3; // WCAG's least for large letters, against their ground
const LINE = 0.9, SPACED = [-0.1, 0.5]; // height of a line and space between letters, by the size of the letters
const start = (text) => text.trim().replace(/\s+/g, " ").slice(0, 30);

/** Everything wrong with one slide, as a list of sentences. */
function measured(section) {
  const found = new Set();
  const box = section.getBoundingClientRect();
  const scale = box.width / section.offsetWidth || 1;
  const say = (what) => found.add(what);
  const px = (length) => Math.round(length / scale);
  const elements = [...section.querySelectorAll("*")].filter((element) =>
    element instanceof HTMLElement && !element.closest(HIDDEN));

  const high = section.scrollHeight - section.clientHeight, wide = section.scrollWidth - section.clientWidth;
  if (high > 1) say(`${high} px too high`);
  if (wide > 1) say(`${wide} px too wide`);
  reach(section, box, scale, say);
  for (const element of elements) squeezed(element, say);
  const marks = [...words(section, say), ...formulas(section)];
  const ways = new Map(); // what hides the text of an element
  for (const mark of marks) {
    if (!ways.has(mark.element)) ways.set(mark.element, unseen(mark.element, section));
    for (const way of ways.get(mark.element)) say(`${way}: ${mark.text}`);
  }
  for (const [text, cover] of covered(marks, elements, scale)) say(`lies under <${cover}>: ${text}`);
  for (const image of section.querySelectorAll("img")) picture(image, box, scale, say, marks);
  const hidden = new Map(); // the most that is hidden of a text
  for (const mark of marks) {
    hidden.set(mark.text, Math.max(hidden.get(mark.text) || 0, px(cut(mark, section))));
    if (mark.size && mark.size / scale < READABLE.text - 0.1)
      say(`letters of ${Math.round(10 * mark.size / scale) / 10} px, too small to read: ${mark.text}`);
  }
  for (const [text, most] of hidden) if (most > 2) say(`${most} px are cut off of: ${text}`);
  for (const [one, other] of collisions(marks, scale)) say(`lies on one another: ${one} | ${other}`);
  return [...found];
}

/** Blocks that leave the margins. */
function reach(section, box, scale, say) {
  const side = section.classList.contains("split") ? section.querySelector("figure") : null;
  const right = side ? side.getBoundingClientRect().left : box.right - MARGIN.right * scale;
  for (const element of section.querySelectorAll("h1,h2,h3,p,li,table,pre,blockquote,mjx-container > svg")) {
    const place = element.getBoundingClientRect(), text = start(element.textContent);
    const limit = element.tagName === "H2" ? box.right - MARGIN.right * scale : right;
    if (place.bottom > box.bottom - MARGIN.foot * scale) say(`<${element.tagName}> reaches the foot: ${text}`);
    if (place.right > limit + 1) say(`<${element.tagName}> is too wide: ${text}`);
  }
}

/** A box smaller than what is in it: cut off, behind a scroll bar, or hanging out. */
function squeezed(element, say) {
  const style = getComputedStyle(element), tag = element.tagName, text = start(element.textContent);
  const clips = /paint|strict|content/.test(style.contain);
  if (tag === "DETAILS" && !element.open) say(`<DETAILS> is folded: ${text}`);
  if (["INPUT", "TEXTAREA", "SELECT"].includes(tag)) say(`<${tag}> is a field, which may hide what is in it`);
  const solid = ["PRE", "TABLE", "BLOCKQUOTE"].includes(tag); // their edges are seen
  for (const [axis, missing] of [
    ["Y", element.scrollHeight - element.clientHeight],
    ["X", element.scrollWidth - element.clientWidth],
  ]) {
    if (!element.clientHeight || tag === "IMG" || missing <= 1) continue;
    const side = axis === "Y" ? "height" : "width";
    if (clips || style[`overflow${axis}`] !== "visible") say(`<${tag}> hides ${missing} px of its ${side}: ${text}`);
    else if (solid) say(`<${tag}> is squeezed, ${missing} px of its ${side} hang out: ${text}`);
  }
}

/** Every line of text: where it stands, in which block, and how large its letters are. */
function words(section, say) {
  const found = [], walker = document.createTreeWalker(section, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest(HIDDEN)) continue;
    range.selectNodeContents(node);
    const absent = [...range.getClientRects()].every((place) => !place.width || !place.height);
    if (absent || getComputedStyle(parent).visibility !== "visible") say(`is not shown: ${start(node.data)}`);
    const drawn = parent.offsetWidth ? parent.getBoundingClientRect().width / parent.offsetWidth : 1;
    const size = parseFloat(getComputedStyle(parent).fontSize) * drawn;
    for (const place of range.getClientRects()) {
      if (!place.width || !place.height) continue;
      const air = Math.max(0, place.height - size) / 2 + 0.1 * size; // letters are lower than their line
      found.push({
        element: parent, block: parent.closest(BLOCKS) || section, text: start(node.data), size,
        left: place.left, right: place.right, top: place.top + air, bottom: place.bottom - air,
      });
    }
  }
  return found;
}

function formulas(section) {
  return [...section.querySelectorAll("mjx-container > svg")].map((svg) => {
    const { left, right, top, bottom } = svg.getBoundingClientRect(), text = "a formula";
    const size = 1000 * (right - left) / svg.viewBox.baseVal.width; // MathJax draws letters of 1000 units
    return { element: svg.parentElement, block: svg.closest(BLOCKS) || section, text, size, left, right, top, bottom };
  });
}

/** A picture: loaded, whole, undistorted, large enough; its place is added to ``marks``. */
function picture(image, box, scale, say, marks) {
  const place = image.getBoundingClientRect(), name = start(image.alt);
  const ratio = image.naturalWidth / image.naturalHeight;
  if (!ratio) return say(`a picture did not load: ${name}`);
  const fit = getComputedStyle(image).objectFit, bent = Math.abs(place.width / (place.height * ratio) - 1);
  if (fit === "fill" && bent > 0.03) say(`a picture is stretched: ${name}`);
  const natural = image.naturalWidth * scale > place.width + 1 || image.naturalHeight * scale > place.height + 1;
  if ((fit === "cover" && bent > 0.03) || (fit === "none" && natural)) say(`a picture is cut off: ${name}`);
  const width = Math.min(place.width, place.height * ratio), height = width / ratio;
  if (width / scale < PICTURE.width || height / scale < PICTURE.height)
    say(`a picture is too small to read: ${name}`);
  const letters = image.dataset.letters * width / scale; // data-letters: smallest letters by the picture's width
  if (letters < READABLE.picture)
    say(`letters of ${letters.toFixed(1)} px in a picture, too small to read: ${name}`);
  if (place.bottom > box.bottom - MARGIN.pictureFoot * scale) say(`a picture reaches the foot: ${name}`);
  const middle = { x: (place.left + place.right) / 2, y: (place.top + place.bottom) / 2 };
  return marks.push({
    element: image, block: image.closest("figure") || image, text: `a picture, ${name}`,
    left: middle.x - width / 2, right: middle.x + width / 2,
    top: middle.y - height / 2, bottom: middle.y + height / 2,
  });
}

/** Why the words of an element are not to be seen, or hardly: a list, empty when they are. */
function unseen(element, section) {
  const found = [], own = getComputedStyle(element), size = parseFloat(own.fontSize);
  let shown = 1;
  for (let around = element; around; around = around === section ? null : around.parentElement) {
    const style = getComputedStyle(around), turn = new DOMMatrix(style.transform === "none" ? "" : style.transform);
    shown *= parseFloat(style.opacity);
    const masked = [style.clipPath, style.maskImage, style.filter, style.clip].some((way) => way && !/^(none|auto)$/.test(way));
    if (masked) found.push("is clipped, masked or filtered");
    if (Math.abs(turn.b) > 0.01 || Math.abs(turn.c) > 0.01 || turn.a <= 0 || turn.d <= 0) found.push("is turned");
    if (style.writingMode !== "horizontal-tb") found.push("is not written from left to right");
    if (parseInt(style.zIndex) < 0) found.push("lies behind the slide");
  }
  if (element instanceof HTMLElement) {
    const contrast = standsOut(own, shown, ground(element, section));
    if (contrast < CONTRAST) found.push(`hardly stands out from its ground (contrast ${contrast.toFixed(1)})`);
    const space = parseFloat(own.letterSpacing) / size;
    if (space < SPACED[0] || space > SPACED[1]) found.push("has letters set too close or too far apart");
    if (parseFloat(own.lineHeight) < LINE * size) found.push("has lines set into one another");
  } else if (shown < 0.5) found.push("hardly stands out from its ground");
  return found;
}

/** A colour of the style as [red, green, blue, opacity], the first of them where it is a gradient's. */
function colour(text) {
  const one = text.match(/(rgba?|color)\(([^)]*)\)/);
  if (!one) return [0, 0, 0, 0];
  const numbers = one[2].match(/-?[\d.]+(?:e-?\d+)?%?/g).map(parseFloat), wide = one[1] === "color" ? 255 : 1;
  return [...numbers.slice(0, 3).map((part) => part * wide), numbers[3] ?? 1];
}

const over = (top, under) => [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * under[i]);

/** The colour behind an element's words; none where that is a picture. */
function ground(element, section) {
  const layers = [];
  for (let around = element; around; around = around === section ? null : around.parentElement) {
    const style = getComputedStyle(around), flat = colour(style.backgroundColor);
    if (style.backgroundImage.includes("url(")) return null;
    if (style.backgroundImage !== "none" && !flat[3]) layers.push(colour(style.backgroundImage));
    layers.push(flat);
  }
  return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]);
}

/** How far the letters of a style stand out, as WCAG counts it: 1 is not at all, 21 is black on white. */
function standsOut(style, shown, under) {
  if (!under) return Infinity;
  const ink = colour(style.webkitTextFillColor || style.color);
  const light = [over([...ink.slice(0, 3), ink[3] * shown], under), under].map((rgb) => {
    const [r, g, b] = rgb.map((part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  });
  return Math.max(...light) / Math.min(...light);
}

/** Words under a box that has a ground of its own and comes later: pairs of words and tag. */
function covered(marks, elements, scale) {
  const boxes = elements.filter((element) => {
    const style = getComputedStyle(element);
    return style.display !== "inline" && (colour(style.backgroundColor)[3] > 0.2 || style.backgroundImage !== "none");
  });
  return boxes.flatMap((box) => {
    const place = box.getBoundingClientRect();
    return marks.filter((mark) => {
      const later = mark.element.compareDocumentPosition(box) & Node.DOCUMENT_POSITION_FOLLOWING;
      const across = Math.min(mark.right, place.right) - Math.max(mark.left, place.left);
      const along = Math.min(mark.bottom, place.bottom) - Math.max(mark.top, place.top);
      return later && !mark.element.contains(box) && across > 4 * scale && along > 4 * scale;
    }).map((mark) => [mark.text, box.tagName]);
  });
}

/** How many px of a mark the boxes around it hide, up to the slide itself. */
function cut(mark, section) {
  let hidden = 0;
  for (let around = mark.element; around; around = around === section ? null : around.parentElement) {
    const style = getComputedStyle(around), place = around.getBoundingClientRect();
    if (around === section || (around.tagName !== "IMG" && style.overflowY !== "visible") || around.matches("pre"))
      hidden = Math.max(hidden, place.top - mark.top, mark.bottom - place.bottom);
    if (around === section || (around.tagName !== "IMG" && style.overflowX !== "visible") || around.matches("pre"))
      hidden = Math.max(hidden, place.left - mark.left, mark.right - place.right);
  }
  return hidden;
}

/** Pairs of blocks that are drawn over each other. */
function collisions(marks, scale) {
  const found = [];
  marks.forEach((one, index) => {
    for (const other of marks.slice(index + 1)) {
      if (one.block === other.block && one.block.tagName !== "FIGURE") continue;
      const across = Math.min(one.right, other.right) - Math.max(one.left, other.left);
      const along = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
      if (across > 2 * scale && along > 2 * scale) found.push([one.text, other.text]);
    }
  });
  return found;
}

addEventListener("load", () => { // no web fonts here, and pictures are inside: all is there on load
  const sections = [...document.querySelectorAll("section[id]")];
  const found = sections.flatMap((section, index) => measured(section).map((what) => [index + 1, what]));
  parent.postMessage({ slides: sections.length, found }, "*");
});
