// Keys, times in the viewer's zone, and the live overview. Every page works without this file.
"use strict";

const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

const clock = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const slice = new Intl.DateTimeFormat(undefined, { weekday: "short", hour: "numeric", minute: "2-digit" });

function span(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

// The hours below charts, and what a pointer that rests on a bar is told.
function tellHours(root) {
  for (const element of root.querySelectorAll("[data-at]")) {
    const { at, says } = element.dataset;
    element.textContent = [says, clock.format(new Date(at))].filter(Boolean).join(" ");
  }
  for (const title of root.querySelectorAll("title[data-from]")) {
    const { from, to, says } = title.dataset;
    title.textContent = `${slice.formatRange(new Date(from), new Date(to))}: ${says}`;
  }
}

// Relative to this machine's clock.
function tellTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const at = new Date(element.getAttribute("datetime"));
    if (Number.isNaN(at.getTime())) continue;
    element.title = `${exact.format(at)} (${zone})`;
    if (element.hasAttribute("data-clock")) {
      element.textContent = at.toLocaleTimeString();
      continue;
    }
    const seconds = (Date.now() - at.getTime()) / 1000;
    element.textContent = Math.abs(seconds) < 1 ? "now" : seconds > 0 ? `${span(seconds)} ago` : `in ${span(-seconds)}`;
  }
}

function rows() {
  return [...document.querySelectorAll("[data-row]")];
}

function current() {
  return document.querySelector("[data-row].at");
}

function move(step) {
  const all = rows();
  if (all.length === 0) return;
  const at = all.indexOf(current());
  const next = all[Math.min(all.length - 1, Math.max(0, at < 0 ? 0 : at + step))];
  if (at >= 0) all[at].classList.remove("at");
  next.classList.add("at");
  next.querySelector("th a").focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest" });
}

function retry() {
  const form = document.querySelector("details[data-action=retry]");
  if (form) {
    form.open = true;
    form.querySelector("input:not([type=hidden])").focus();
    return;
  }
  const row = current();
  if (row) location.href = `${row.dataset.href}#retry`;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest("input:not([type=checkbox]), textarea, select");
  if (typing) {
    if (event.key === "Escape") typing.blur();
    return;
  }
  const actions = {
    j: () => move(1),
    k: () => move(-1),
    "/": () => {
      const search = document.getElementById("q");
      if (search) search.focus();
      else location.href = "/ops/jobs#search";
    },
    x: () => current()?.querySelector("input[name=id]")?.click(),
    r: retry,
    g: () => { location.href = "/ops"; },
  };
  const action = actions[event.key];
  if (action) {
    event.preventDefault();
    action();
  }
});

document.addEventListener("change", (event) => {
  if (!event.target.matches("[data-tick-all]")) return;
  for (const box of document.querySelectorAll("input[name=id]")) box.checked = event.target.checked;
});

function follow(board) {
  const state = document.querySelector("[data-live-state]");
  const source = new EventSource(board.dataset.live);
  source.addEventListener("open", () => {
    state.textContent = "live";
    state.classList.remove("lost");
  });
  source.addEventListener("board", (event) => {
    const place = board.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    // Rendered and escaped by the server, as the page itself is.
    board.innerHTML = event.data;
    tellTimes(board);
    tellHours(board);
    if (place) board.querySelector(`a[href="${CSS.escape(place)}"]`)?.focus({ preventScroll: true });
    state.textContent = "live";
    state.classList.remove("lost");
  });
  source.addEventListener("error", () => {
    state.textContent = source.readyState === EventSource.CLOSED ? "not live: reload, or sign in again" : "not live: connecting…";
    state.classList.add("lost");
  });
}

document.addEventListener("htmx:afterSettle", () => tellTimes(document));
tellTimes(document);
tellHours(document);
setInterval(() => tellTimes(document), 10000);
document.querySelector("[data-zone]")?.replaceChildren(`Times are ${zone}.`);
document.querySelectorAll("[data-live]").forEach(follow);
if (location.hash === "#retry") retry();
if (location.hash === "#search") document.getElementById("q")?.focus();
