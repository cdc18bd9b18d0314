// Keys, times in the viewer's zone, pages that keep themselves fresh, and what is said when they cannot. Every page
// works without this file.
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

// What charts say in words and numbers.
function tellHours(root) {
  for (const element of root.querySelectorAll("[data-at]")) {
    const { at, says } = element.dataset;
    element.textContent = `${says} ${clock.format(new Date(at))}`;
  }
  for (const element of root.querySelectorAll("[data-from]")) {
    const { from, to } = element.dataset;
    element.textContent = slice.formatRange(new Date(from), new Date(to));
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

// What a page of a refusal or failure says: what happened and what to do.
function told(reply, status) {
  if (reply.startsWith("{")) return JSON.parse(reply).detail;
  const page = new DOMParser().parseFromString(reply, "text/html");
  const said = [...page.querySelectorAll("[data-told]")].map((one) => one.textContent.trim());
  const words = said.map((one) => (/[.!?]$/.test(one) ? one : `${one}.`)).join(" ");
  return words || `The dashboard answered ${status}.`;
}

const UNREACHABLE = "The dashboard does not answer: it is restarting, or the way to it is cut.";

// A change of a page between the two halves of a click would swallow it.
let pressed = false;
document.addEventListener("pointerdown", (event) => { pressed = event.button === 0; });
for (const [target, type] of [[document, "pointerup"], [document, "pointercancel"], [window, "blur"]]) {
  target.addEventListener(type, () => setTimeout(() => { pressed = false; }));
}

// Where somebody is in a part of the page that is about to be replaced. Returns what puts them there again.
function place(part) {
  const key = (one) => [one.tagName, one.getAttribute("href"), one.closest("form")?.getAttribute("action"), one.getAttribute("aria-label") ?? one.textContent].join(" ");
  const alike = (within, wanted) => [...within.querySelectorAll("a, button, summary, [tabindex]")].filter((one) => key(one) === wanted);
  const at = part.contains(document.activeElement) ? key(document.activeElement) : null;
  // Rows have buttons of the same name.
  const nth = at ? alike(part, at).indexOf(document.activeElement) : -1;
  const scrolled = [...part.querySelectorAll(".scroll")].map((one) => [one.scrollLeft, one.scrollTop]);
  const open = [...part.querySelectorAll("details[open][id]")].map((one) => one.id);
  return (fresh) => {
    for (const id of open) fresh.querySelector(`#${id}`)?.setAttribute("open", "");
    fresh.querySelectorAll(".scroll").forEach((one, index) => { [one.scrollLeft, one.scrollTop] = scrolled[index] ?? [0, 0]; });
    if (nth >= 0) alike(fresh, at)[nth]?.focus({ preventScroll: true });
  };
}

// The overview comes every two seconds; without it for so long, or told so, the page says that it is old.
const STALE_AFTER = 6000;
const REOPEN_AFTER = 2000;

// The same words once more are nothing new to who has them read out.
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function follow(board) {
  const state = document.querySelector("[data-live-state]");
  const notice = document.querySelector("[data-stale]");
  let fresh = Date.now();
  let why = "";

  function tell() {
    const stale = why !== "" || Date.now() - fresh > STALE_AFTER;
    state.classList.toggle("lost", stale);
    board.classList.toggle("stale", stale);
    notice.hidden = !stale;
    if (!stale) return;
    const since = new Date(fresh).toLocaleTimeString();
    say(state, `not fresh since ${since}`);
    say(notice, `${why || "No news has come for some seconds."} What is below is of ${since}; this page goes on by itself.`);
  }

  function show(html) {
    if (pressed) return;
    fresh = Date.now();
    why = "";
    const back = place(board);
    // Rendered and escaped by the server, as the page itself is.
    board.innerHTML = html;
    tellTimes(board);
    tellHours(board);
    back(board);
    board.dispatchEvent(new Event("shown", { bubbles: true }));
    say(state, "live");
    tell();
  }

  function connect() {
    const source = new EventSource(board.dataset.live);
    source.addEventListener("board", (event) => show(event.data));
    source.addEventListener("stale", (event) => {
      why = event.data;
      tell();
    });
    // It connects again by itself where the connection broke, but not where it was refused.
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) setTimeout(reopen, REOPEN_AFTER);
    });
  }

  async function reopen() {
    const asked = new AbortController();
    try {
      const reply = await fetch(board.dataset.live, { redirect: "manual", signal: asked.signal });
      if (reply.type === "opaqueredirect") {
        // The session has ended: this leads to the sign-in page.
        location.reload();
        return;
      }
      if (reply.ok) {
        asked.abort();
        connect();
        return;
      }
      why = told(await reply.text(), reply.status);
    } catch {
      why = UNREACHABLE;
    }
    tell();
    setTimeout(reopen, REOPEN_AFTER);
  }

  connect();
  setInterval(tell, 1000);
}

// Parts that are asked for again and again are left alone while somebody is at work in them.
const AGAIN = "[hx-trigger^=every]";

function written(field) {
  return field.type === "checkbox" ? field.checked !== field.defaultChecked : field.value !== field.defaultValue;
}

function busy(part) {
  const at = document.activeElement;
  const selected = getSelection();
  return pressed
    || document.hidden
    || part.querySelector("details[open]") !== null
    || (part.contains(at) && at.matches("input, textarea, select"))
    || (!selected.isCollapsed && part.contains(selected.anchorNode))
    || [...part.querySelectorAll("input:not([type=hidden]), textarea")].some(written);
}

let changed = Date.now();
let back = null;

document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.detail.elt.matches(AGAIN) && busy(event.detail.elt)) event.preventDefault();
});

document.addEventListener("htmx:beforeSwap", (event) => {
  const { elt, target, xhr, isError } = event.detail;
  if (new URL(xhr.responseURL, location.href).pathname === "/ops/login") {
    event.detail.shouldSwap = false;
    location.assign(xhr.responseURL);
  } else if (elt.matches(AGAIN) && busy(elt)) {
    event.detail.shouldSwap = false;
  } else if (!isError) {
    back = { id: target.id, to: place(target) };
  }
});

document.addEventListener("htmx:afterSettle", () => {
  changed = Date.now();
  tellTimes(document);
  const part = back && document.getElementById(back.id);
  if (part) back.to(part);
  back = null;
});

// What came to nothing is said: the page below it is an old one.
function complain(words, element) {
  const banner = document.querySelector("[data-fault]");
  const next = element.matches(AGAIN) ? "It is asked for again by itself." : "Change the filter or press Show to ask again.";
  say(banner, `${words} What is below is as it was at ${new Date(changed).toLocaleTimeString()}. ${next}`);
  banner.hidden = false;
}

document.addEventListener("htmx:responseError", ({ detail: { xhr, elt } }) => complain(told(xhr.responseText, xhr.status), elt));
document.addEventListener("htmx:sendError", (event) => complain(UNREACHABLE, event.detail.elt));
document.addEventListener("htmx:timeout", (event) => complain(UNREACHABLE, event.detail.elt));
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful) document.querySelector("[data-fault]").hidden = true;
});

// Instants are chosen in the viewer's zone and sent in UTC; without this file both are UTC.
function local(instant) {
  const at = new Date(instant);
  if (Number.isNaN(at.getTime())) return "";
  const there = new Date(at.getTime() - at.getTimezoneOffset() * 60000).toISOString();
  return there.slice(0, at.getTime() % 60000 === 0 ? 16 : 19);
}

for (const field of document.querySelectorAll("input[data-instant]")) {
  const sent = document.createElement("input");
  sent.type = "hidden";
  sent.name = field.name;
  sent.value = field.dataset.instant;
  field.removeAttribute("name");
  field.value = local(field.dataset.instant);
  field.closest("label").querySelector("small")?.remove();
  field.addEventListener("input", () => { sent.value = field.value && new Date(field.value).toISOString(); });
  field.form.append(sent);
}

tellTimes(document);
tellHours(document);
setInterval(() => tellTimes(document), 10000);
document.querySelector("[data-zone]")?.replaceChildren(`Times are ${zone}.`);
document.querySelectorAll("[data-live]").forEach(follow);
if (location.hash === "#retry") retry();
if (location.hash === "#search") document.getElementById("q")?.focus();
