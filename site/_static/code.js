// A button that copies a piece of code. Without scripts there is none, and the code can be selected.
"use strict";
const chinese = document.documentElement.lang.startsWith("zh");
const [COPY, DONE] = chinese ? ["复制", "已复制"] : ["Copy", "Copied"];

// Where the page is not served safely (http on another machine), browsers offer only the older way.
const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  }
};

for (const block of document.querySelectorAll("article .highlight"))
  if (!block.closest(".cell_output")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy-code";
    button.textContent = COPY;
    button.addEventListener("click", async () => {
      await copy(block.querySelector("pre").textContent.replace(/\n+$/, "\n"));
      button.textContent = DONE;
      button.focus();
      setTimeout(() => (button.textContent = COPY), 1500);
    });
    block.append(button);
  }
