// The review list: filters, cards, decisions, and corrections.csv. Every text from the data is set as text,
// never as markup. Decisions are kept in this browser, by the run's key and the sample's id.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("review-data").textContent);
  const STEP = 48; // cards that are added at a time
  const STORE = "mild_ext:review:" + data.key;
  const samples = data.rows.map(([id, given, suggested, confidence, suspicion, flagged, picture, text, truth], rank) =>
    ({ id, given, suggested, confidence, suspicion, flagged: flagged === 1, picture, text, truth, rank }));
  const nameOf = (k) => data.classes[k];
  const at = (id) => document.getElementById(id);
  const list = at("samples"), say = at("said");
  const controls = { search: at("search"), given: at("given"), suggested: at("suggested"), show: at("show"), sort: at("sort") };

  // ---- decisions: id -> {decision, label}, label a class name or ""
  let marks = new Map();
  let canStore = true;

  function readMarks() {
    try {
      const kept = JSON.parse(localStorage.getItem(STORE) || "{}");
      marks = new Map(Object.entries(kept));
    } catch { canStore = false; }
    at("not-kept").hidden = canStore;
  }
  function writeMarks() {
    try { localStorage.setItem(STORE, JSON.stringify(Object.fromEntries(marks))); } catch { canStore = false; }
    at("not-kept").hidden = canStore;
  }
  function markOf(sample) { return marks.get(sample.id); }
  function decide(sample, decision, label) {
    const now = markOf(sample);
    if (decision === "relabel" && label === nameOf(sample.given)) decision = "right";
    if (decision === "right") label = nameOf(sample.given);
    if (decision === "wrong") label = "";
    const same = now && now.decision === decision && now.label === label;
    if (!decision || same) marks.delete(sample.id); else marks.set(sample.id, { decision, label });
    writeMarks();
    showDecision(sample);
    showProgress();
    say.textContent = sample.id + ": " + (inWords(markOf(sample)) || "no decision") + ". " + at("progress-text").textContent;
    return !same && decision !== null;
  }
  function inWords(mark) {
    if (!mark) return "";
    return { right: "label is right", wrong: "label is wrong", relabel: "is " + mark.label }[mark.decision];
  }

  // ---- which samples are shown
  let shown = [], rendered = 0;

  const shows = {
    all: () => true,
    flagged: (s) => s.flagged,
    open: (s) => !markOf(s),
    right: (s) => (markOf(s) || {}).decision === "right",
    wrong: (s) => (markOf(s) || {}).decision === "wrong",
    relabel: (s) => (markOf(s) || {}).decision === "relabel",
  };
  const byText = new Intl.Collator(undefined, { numeric: true }).compare;
  const orders = {
    suspicion: (a, b) => a.rank - b.rank,
    least: (a, b) => b.rank - a.rank,
    confidence: (a, b) => (b.confidence ?? -1) - (a.confidence ?? -1) || a.rank - b.rank,
    name: (a, b) => byText(a.id, b.id),
    given: (a, b) => a.given - b.given || a.rank - b.rank,
    suggested: (a, b) => a.suggested - b.suggested || a.rank - b.rank,
  };
  function filter() {
    const words = controls.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const given = controls.given.value, suggested = controls.suggested.value;
    shown = samples.filter((s) => {
      if (given !== "" && s.given !== Number(given)) return false;
      if (suggested !== "" && s.suggested !== Number(suggested)) return false;
      if (!shows[controls.show.value](s)) return false;
      const text = (s.id + "\n" + (s.text || "")).toLowerCase();
      return words.every((word) => text.includes(word));
    }).sort(orders[controls.sort.value]);
    list.replaceChildren();
    rendered = 0;
    more();
  }
  function more() {
    const next = shown.slice(rendered, rendered + STEP);
    list.append(...next.map(card));
    rendered += next.length;
    const left = shown.length - rendered;
    at("more").hidden = left === 0;
    at("more").textContent = "Show " + Math.min(STEP, left) + " more";
    at("count").textContent = shown.length === 0 ? "No sample matches these filters."
      : rendered.toLocaleString("en") + " of " + shown.length.toLocaleString("en") + " samples shown";
    if (rendered && !list.querySelector("article[tabindex='0']")) makeCurrent(list.querySelector("article"));
  }

  // ---- a card
  function card(sample) {
    const item = at("card").content.firstElementChild.cloneNode(true);
    const part = (name) => item.querySelector("." + name);
    const article = item.firstElementChild, given = nameOf(sample.given);
    article.dataset.rank = sample.rank;
    article.id = "sample-" + sample.rank;
    const described = sample.id + ", labeled " + given + (sample.suggested < 0 ? "" : ", suggested " + nameOf(sample.suggested));
    article.setAttribute("aria-label", described);
    part("name").textContent = sample.id;
    part("given").textContent = given;
    if (sample.picture) {
      const image = part("picture");
      image.src = sample.picture;
      image.alt = "Sample " + sample.id + ", labeled " + given;
      image.hidden = false;
    }
    if (sample.text) { part("text").textContent = sample.text; part("text").hidden = false; }
    if (sample.suggested >= 0) {
      part("new").textContent = nameOf(sample.suggested);
      part("suggest-name").textContent = nameOf(sample.suggested);
      part("suggestion").hidden = part("suggest").hidden = false;
    }
    if (data.truth && sample.truth >= 0) { part("truth").textContent = "true label: " + nameOf(sample.truth); part("truth").hidden = false; }
    meter(part("suspicion"), sample.suspicion.toFixed(2), data.most ? sample.suspicion / data.most : 0);
    if (sample.confidence !== null) meter(part("confidence"), Math.round(100 * sample.confidence) + " %", sample.confidence);
    else for (const one of item.querySelectorAll(".sure")) one.hidden = true;
    part("decide").setAttribute("aria-label", "Decision for " + sample.id);
    const select = part("relabel");
    select.setAttribute("aria-label", "Relabel " + sample.id + " to");
    // Options are made when they are needed: there may be a thousand classes.
    const fill = () => {
      if (select.options.length > 2) return;
      const chosen = select.value;
      select.replaceChildren(select.options[0], ...data.classes.map((name, k) => new Option(name, String(k))));
      select.value = chosen;
    };
    if (data.classes.length <= 30) fill();
    select.addEventListener("pointerdown", fill);
    select.addEventListener("focus", fill);
    select.addEventListener("change", () => decide(sample, select.value === "" ? null : "relabel", nameOf(Number(select.value))));
    part("right").addEventListener("click", () => decide(sample, "right"));
    part("wrong").addEventListener("click", () => decide(sample, "wrong"));
    part("suggest").addEventListener("click", () => decide(sample, "relabel", nameOf(sample.suggested)));
    showDecision(sample, article);
    return item;
  }
  function meter(cell, text, share) {
    cell.textContent = text;
    cell.nextElementSibling.firstElementChild.style.width = (100 * Math.max(0, Math.min(1, share))).toFixed(1) + "%";
  }
  function showDecision(sample, article = at("sample-" + sample.rank)) {
    if (!article) return;
    const mark = markOf(sample), decision = mark ? mark.decision : "";
    if (decision) article.dataset.decision = decision; else delete article.dataset.decision;
    const press = (name, on) => article.querySelector("." + name).setAttribute("aria-pressed", String(on));
    const suggested = decision === "relabel" && sample.suggested >= 0 && mark.label === nameOf(sample.suggested);
    press("right", decision === "right");
    press("wrong", decision === "wrong");
    press("suggest", suggested);
    const select = article.querySelector(".relabel"), other = decision === "relabel" && !suggested;
    const number = other ? data.classes.indexOf(mark.label) : -1;
    if (number >= 0 && ![...select.options].some((o) => o.value === String(number))) select.add(new Option(mark.label, String(number)));
    select.value = number >= 0 ? String(number) : "";
    select.classList.toggle("chosen", number >= 0);
    article.querySelector(".decided").textContent = inWords(mark);
  }

  // ---- progress
  function showProgress() {
    const pool = data.flagged ? samples.filter((s) => s.flagged) : samples;
    const done = pool.filter(markOf).length, looked = samples.filter(markOf);
    const wrong = looked.filter((s) => markOf(s).decision !== "right").length;
    at("progress").max = Math.max(1, pool.length);
    at("progress").value = done;
    at("progress-text").textContent = done.toLocaleString("en") + " of " + pool.length.toLocaleString("en") +
      (data.flagged ? " flagged" : "") + " samples marked" +
      (looked.length ? "; " + wrong.toLocaleString("en") + " of " + looked.length.toLocaleString("en") + " labels were wrong" : "");
    at("download").disabled = at("clear").hidden = looked.length === 0;
  }

  // What a spreadsheet takes for a formula: as mild_ext.files.spreadsheet_safe.
  const FORMULA = /^'*[\s\ufeff\u200b]*[=+\-@\uff1d\uff0b\uff0d\uff20\t\r\n]/;
  // ---- corrections.csv: RFC 4180; a text that a spreadsheet would take for a formula gets a ' in front
  function cell(text) {
    if (FORMULA.test(text)) text = "'" + text;
    return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  }
  function corrections() {
    const lines = [["id", "given_label", "decision", "label"]];
    for (const s of samples) {
      const mark = markOf(s);
      if (mark) lines.push([s.id, nameOf(s.given), mark.decision, mark.label]);
    }
    return lines.map((line) => line.map(cell).join(",") + "\r\n").join("");
  }
  function download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([corrections()], { type: "text/csv;charset=utf-8" }));
    link.download = "corrections.csv";
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    say.textContent = "Downloaded corrections.csv.";
  }

  // An earlier corrections.csv, of this or another browser: its decisions go before those here.
  function parseCsv(text) {
    const rows = [[]];
    let field = "", quoted = false;
    const end = () => { rows.at(-1).push(field[0] === "'" && FORMULA.test(field.slice(1)) ? field.slice(1) : field); field = ""; };
    for (let i = 0; i < text.length; i++) {
      const c = text[i];
      if (quoted) {
        if (c !== '"') field += c;
        else if (text[i + 1] === '"') { field += c; i++; } else quoted = false;
      } else if (c === '"') quoted = true;
      else if (c === ",") end();
      else if (c === "\n") { end(); rows.push([]); } else if (c !== "\r") field += c;
    }
    end();
    return rows.filter((row) => row.length > 1);
  }
  async function load(file) {
    const [header, ...rows] = parseCsv((await file.text()).replace(/^\uFEFF/, ""));
    const [id, decision, label] = ["id", "decision", "label"].map((name) => (header || []).indexOf(name));
    const byId = new Map(samples.map((s) => [s.id, s]));
    let taken = 0;
    for (const row of id < 0 || decision < 0 ? [] : rows) {
      const sample = byId.get(row[id]), class_ = row[label] || "";
      const fits = { right: true, wrong: true, relabel: data.classes.includes(class_) };
      if (!sample || !Object.hasOwn(fits, row[decision]) || !fits[row[decision]]) continue;
      const given = nameOf(sample.given), relabel = row[decision] === "relabel" && class_ !== given;
      marks.set(sample.id, relabel ? { decision: "relabel", label: class_ }
        : row[decision] === "wrong" ? { decision: "wrong", label: "" } : { decision: "right", label: given });
      taken++;
    }
    writeMarks();
    filter();
    showProgress();
    at("loaded").textContent = "Loaded " + taken + " decisions from " + file.name + "." + (taken === rows.length ? ""
      : " " + (rows.length - taken) + " lines are of no sample or class in this list.");
  }

  // ---- keys, while a card has the focus
  let last = null;  // the card that was marked last
  function cards() { return [...list.querySelectorAll("article")]; }
  // One card at a time can be reached with Tab, and the controls in it: arrows lead to the others.
  function makeCurrent(article) {
    const set = (one, index) => { for (const part of [one, ...one.querySelectorAll("button, select")]) part.tabIndex = index; };
    for (const other of list.querySelectorAll("article[tabindex='0']")) set(other, -1);
    set(article, 0);
  }
  function focusCard(article) {
    makeCurrent(article);
    article.focus({ preventScroll: true });
    article.scrollIntoView({ block: "nearest" });
  }
  function move(article, by) {
    const position = cards().indexOf(article) + by;
    while (position >= rendered && rendered < shown.length) more();
    const target = cards()[Math.max(0, Math.min(position, rendered - 1))];
    if (target) focusCard(target);
  }
  function columns() {
    const all = cards(), top = all[0].getBoundingClientRect().top;
    const first = all.findIndex((one) => one.getBoundingClientRect().top > top + 1);
    return first < 0 ? all.length : first;
  }
  list.addEventListener("keydown", (event) => {
    const article = event.target.closest("article");
    if (!article || event.ctrlKey || event.metaKey || event.altKey) return;
    const sample = samples[Number(article.dataset.rank)], select = article.querySelector(".relabel");
    if (event.target === select) {
      if (event.key === "Enter") { event.preventDefault(); move(article, 1); }
      if (event.key === "Escape") { event.preventDefault(); focusCard(article); }
      return;
    }
    const suggested = sample.suggested < 0 ? null : nameOf(sample.suggested);
    const mark = (...decision) => { if (decide(sample, ...decision)) { last = article; move(article, 1); } };
    // After a mark the focus is on the next card: what is taken back is the mark, there or here.
    const undo = () => {
      const back = marks.has(sample.id) || !last || !last.isConnected ? article : last;
      last = null;
      decide(samples[Number(back.dataset.rank)], null);
      focusCard(back);
    };
    const actions = {
      r: () => mark("right"),
      w: () => mark("wrong"),
      s: () => { if (suggested !== null) mark("relabel", suggested); },
      l: () => select.focus(),
      u: undo,
      ArrowRight: () => move(article, 1), ArrowLeft: () => move(article, -1), j: () => move(article, 1), k: () => move(article, -1),
      ArrowDown: () => move(article, columns()), ArrowUp: () => move(article, -columns()),
      Home: () => move(article, -rendered), End: () => move(article, rendered - 1 - cards().indexOf(article)),
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || event.shiftKey) return;
    event.preventDefault();
    action();
  });
  list.addEventListener("focusin", (event) => makeCurrent(event.target.closest("article")));

  // ---- the rest
  function options(select, field) {
    const counts = new Map();
    for (const s of samples) if (s[field] >= 0) counts.set(s[field], (counts.get(s[field]) || 0) + 1);
    for (const [k, count] of [...counts].sort((a, b) => a[0] - b[0])) select.add(new Option(nameOf(k) + " (" + count + ")", String(k)));
  }
  function start() {
    readMarks();
    options(controls.given, "given");
    options(controls.suggested, "suggested");
    if (!data.flagged) controls.show.querySelector("[value=flagged]").remove();
    controls.show.value = data.flagged ? "flagged" : "all";
    controls.sort.value = "suspicion";
    for (const control of Object.values(controls)) control.addEventListener(control.type === "search" ? "input" : "change", filter);
    at("more").addEventListener("click", () => { const first = rendered; more(); focusCard(cards()[first]); });
    at("download").addEventListener("click", download);
    at("load").addEventListener("change", async (event) => { await load(event.target.files[0]); event.target.value = ""; });
    at("clear").addEventListener("click", () => {
      if (!confirm("Forget all " + marks.size + " decisions of this run in this browser?")) return;
      marks.clear();
      writeMarks();
      filter();
      showProgress();
    });
    // Another tab with the same page.
    addEventListener("storage", (event) => { if (event.key === STORE) { readMarks(); for (const s of samples) showDecision(s); showProgress(); } });
    for (const button of document.querySelectorAll("button[data-given]")) {
      button.addEventListener("click", () => {
        Object.assign(controls.given, { value: button.dataset.given });
        Object.assign(controls.suggested, { value: button.dataset.suggested });
        controls.search.value = "";
        controls.show.value = data.flagged ? "flagged" : "all";
        filter();
        at("review").scrollIntoView();
        controls.given.focus({ preventScroll: true });
      });
    }
    if (samples.some((s) => s.text) && !samples.some((s) => s.picture)) list.classList.add("texts");
    at("app").hidden = false;
    filter();
    showProgress();
  }
  start();
})();
