// The page of rlhf.serve: asks /api/compare and shows the two answers. Text from models and people goes into
// the page through textContent only, so that it can never become HTML.
"use strict";

const EXAMPLES = [
  "This film was", "The actors", "I expected", "The plot of this movie", "After ten minutes", "The director",
];
const CONTROLS = ["max_tokens", "temperature", "seed"];
const UNREACHABLE = ["连不上服务。它还在运行吗？", "The server cannot be reached. Is it still running?"];
const rounds = new Map(); // question → difference of the scores: the same question counts once
let examples = 0;

const at = (id) => document.getElementById(id);

function make(kind, classes, ...content) {
  const node = document.createElement(kind);
  if (classes) node.className = classes;
  node.append(...content); // strings become text
  return node;
}

function both(zh, en) {
  const nodes = [make("span", "zh", zh), make("span", "en", en)];
  nodes[0].lang = "zh";
  nodes[1].lang = "en";
  return nodes;
}

function speak(language) {
  const page = document.documentElement;
  page.dataset.language = language;
  page.lang = language === "zh" ? "zh-CN" : "en";
  document.title = language === "zh" ? "训练前后" : "Before and after";
  for (const id of ["zh", "en"]) at(id).setAttribute("aria-pressed", String(id === language));
  try { localStorage.setItem("language", language); } catch { /* a browser that keeps nothing */ }
}

function firstLanguage() {
  const asked = new URLSearchParams(location.search).get("lang");
  let kept = null;
  try { kept = localStorage.getItem("language"); } catch { /* see above */ }
  const found = [asked, kept].find((one) => one === "zh" || one === "en");
  return found || (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
}

function complain(zh, en, aboutQuestion = false) {
  at("status").replaceChildren();
  at("error").replaceChildren(...both(zh, en));
  if (aboutQuestion) at("prompt").setAttribute("aria-invalid", "true");
}

function forgive() {
  at("error").replaceChildren();
  at("prompt").removeAttribute("aria-invalid");
}

const shown = (score) => score.toFixed(2);

function answer(side, title, one, text, better) {
  const article = make("article", `answer ${side}`);
  const head = make("h2", "", ...both(`${title[0]} `, `${title[1]} `), make("code", "", one.model));
  const nothing = make("span", "nothing", ...both("（什么也没写）", "(nothing written)"));
  const written = one.text.trim() ? make("span", "written", one.text) : nothing;
  const given = make("span", "given", text.replace(/^\s+/, "")); // a dialogue begins with blank lines
  const words = make("p", "text", given, written);
  words.dir = "auto";
  const score = make("p", "score", ...both("得分 ", "score "), make("strong", "", shown(one.score)));
  if (better) score.append(make("span", "better", ...both("更高", "higher")));
  const end = one.ended ? ["自己写完了", "ended by itself"] : ["写到上限", "stopped at the limit"];
  const size = make("p", "small", ...both(`${one.tokens} 个词元，${end[0]}`, `${one.tokens} ${one.tokens === 1 ? "token" : "tokens"}, ${end[1]}`));
  article.append(head, words, score, size);
  return article;
}

function show(done) {
  const { question, before, after, text, difference } = done;
  const settings = make("p", "small", ...both(
    `种子 ${question.seed} · 温度 ${question.temperature} · 最多 ${question.max_tokens} 个词元`,
    `seed ${question.seed} · temperature ${question.temperature} · at most ${question.max_tokens} tokens`));
  const pair = make("div", "pair",
    answer("before", ["训练前", "Before"], before, text, difference < 0),
    answer("after", ["训练后", "After"], after, text, difference > 0));
  at("rounds").prepend(make("li", "round", settings, pair));
  at("status").replaceChildren(...both(
    `训练前得分 ${shown(before.score)}，训练后得分 ${shown(after.score)}。`,
    `Score before ${shown(before.score)}, after ${shown(after.score)}.`));
  rounds.set(JSON.stringify(question), difference);
  count();
}

function count() {
  const found = [...rounds.values()];
  const better = found.filter((one) => one > 0).length;
  const mean = shown(found.reduce((sum, one) => sum + one, 0) / found.length);
  const signed = mean.startsWith("-") ? mean : `+${mean}`;
  at("tally").hidden = false;
  at("tally").replaceChildren(...both(
    `至今 ${found.length} 次提问中，训练后得分更高的有 ${better} 次；得分平均变化 ${signed}`,
    `After scored higher in ${better} of ${found.length} so far; mean change of the score ${signed}`));
}

/** What the server says, whatever it says: an error in both languages where it is no JSON. */
async function read(response) {
  try {
    return await response.json();
  } catch {
    const status = response.status;
    return { zh: `服务出错了（${status}），终端里有细节。`, en: `The server failed (${status}); its terminal has the details.` };
  }
}

async function compare(event) {
  event.preventDefault();
  forgive();
  const question = { prompt: at("prompt").value };
  for (const name of CONTROLS) question[name] = at(name).valueAsNumber;
  at("compare").disabled = true;
  at("status").replaceChildren(...both("两个模型正在写……", "Both models are writing …"));
  try {
    const response = await fetch("/api/compare", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question),
    });
    const done = await read(response);
    if (response.ok && done.before) show(done);
    else complain(done.zh, done.en, response.status === 422);
  } catch {
    complain(...UNREACHABLE);
  } finally {
    at("compare").disabled = false;
  }
}

function submitOnEnter(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return; // composing: a Chinese input method
  event.preventDefault();
  if (!at("compare").disabled) at("form").requestSubmit();
}

async function begin() {
  speak(firstLanguage());
  for (const id of ["zh", "en"]) at(id).addEventListener("click", () => speak(id));
  at("form").addEventListener("submit", compare);
  at("prompt").addEventListener("keydown", submitOnEnter);
  at("example").addEventListener("click", () => {
    at("prompt").value = EXAMPLES[examples++ % EXAMPLES.length];
    at("prompt").focus();
  });
  let facts;
  try {
    facts = await (await fetch("/api/facts")).json();
  } catch {
    return complain(...UNREACHABLE);
  }
  document.documentElement.dataset.form = facts.form;
  for (const name of CONTROLS) Object.assign(at(name), { value: facts[name].value, max: facts[name].max });
  at("prompt").maxLength = facts.prompt.max;
  at("base_url").textContent = facts.base_url;
  for (const [where, text] of [[".reward", facts.reward], [".before-name", facts.before], [".after-name", facts.after]]) {
    for (const node of document.querySelectorAll(where)) node.textContent = text;
  }
  document.documentElement.dataset.ready = "yes";
}

begin();
