// Shared components: badges, bars, tables, menus, dialogs and messages.

import { parameter, setParameter } from "./address.js";
import { segment } from "./api.js";
import { create, h, render } from "./dom.js";
import { NONE, brief, exactTime, failures, number, relative, serverNow, shortAge, visible } from "./format.js";

// The callback that redraws the page.
let again = () => {};

// Sets the callback that redraws the page.
export function onChange(draw) {
  again = draw;
}

export function redraw() {
  again();
}

// An untrusted name: isolated from the direction of the surrounding text, with invisible characters shown.
export function name(text, props = {}) {
  return h("bdi", { title: visible(text), ...props, class: `name ${props.class ?? ""}` }, text === "" ? h("i.muted", null, "empty") : visible(text));
}

export function link(href, ...children) {
  return h("a", { href }, children);
}

export function functionLink(id, text) {
  return h("a.name-link", { href: `#/functions/${segment(id)}` }, name(text));
}

export function workerLink(id) {
  return id ? h("a.code", { href: `#/workers/${encodeURIComponent(id)}` }, id) : NONE;
}

export function jobLink(handle) {
  return handle ? h("a.code.name-link", { href: `#/jobs/${encodeURIComponent(handle)}` }, name(handle)) : NONE;
}

// Tooltips that explain each state.
const MEANINGS = {
  working: "Holds a job",
  waiting: "Awake, without a job",
  asleep: "Sleeps until it is woken for a job",
  woken: "Was woken for a job and has not requested it yet",
  disabled: "Gets no jobs",
  draining: "Gets no new jobs and still holds some",
  drained: "Gets no new jobs and holds none any more",
  paused: "Its jobs wait; submissions go on",
  awaited: "Known only by its settings: it has had no worker or job yet. It is forgotten with its last setting",
  scheduled: "Not due yet",
  queued: "Waits for a worker",
  running: "A worker has it",
  idle: "Has no job",
  leaving: "Finishes its job and ends",
  silent: "Does not answer",
  outdated: "Its monitor will replace it",
  settled: "The fleet is in the desired state",
  busy: "It is changing the fleet to the desired state",
};

export function badge(word, extra = "") {
  return h("span.badge", { class: `is-${word} ${extra}`, title: MEANINGS[word] }, word);
}

// A relative time that is updated.
export function ago(unixMs) {
  return h("time", { datetime: exactTime(unixMs), title: exactTime(unixMs) }, relative(unixMs));
}

// An elapsed time in short form.
export function lasting(unixMs) {
  const seconds = unixMs === null || unixMs === undefined ? null : (serverNow() - unixMs) / 1000;
  return h("time", { datetime: exactTime(unixMs), title: exactTime(unixMs) }, seconds === null ? NONE : shortAge(seconds));
}

// A tile with a labelled number.
export function tile(label, value, { unit, note, tone, href, id } = {}) {
  const inner = [
    h("span.tile-label", null, label),
    h("span.tile-value", { "data-value": id }, value, unit && h("span.tile-unit", null, unit)),
    h("span.tile-note", { title: note }, note ?? "\u00a0"),
  ];
  const kind = href ? "a.tile" : "div.tile";
  return h(kind, { href, class: tone ? `tone-${tone}` : "", key: label }, inner);
}

// A bar relative to the largest value, on a square root scale so that small values remain visible.
export function depthBar(value, most) {
  const share = most > 0 ? Math.sqrt(value / most) : 0;
  return h("span.depth", { "aria-hidden": "true" }, h("span", { style: { width: `${(share * 100).toFixed(1)}%` } }));
}

export function progressBar(numerator, denominator) {
  if (!denominator) {
    return h("span", null, `${number(numerator)} / ${number(denominator)}`);
  }
  const percent = Math.min(100, (numerator / denominator) * 100);
  return h("span.progress-cell", null,
    h("progress", { max: "100", value: percent, "aria-label": `${Math.round(percent)} %`, class: "progress" }),
    h("span", null, `${Math.round(percent)} %`));
}

export function button(label, onClick, { kind = "", disabled = false, title, id } = {}) {
  return h("button", { type: "button", class: `button ${kind}`, disabled, title, "data-action": id ?? label.toLowerCase(), key: `button ${id ?? label}`, on: { click: onClick } }, label);
}

// The number of unsuccessful runs, with a tooltip by kind.
export function failureCount(totals) {
  const { failed, exceptions, timed_out: late } = totals;
  const title = `${number(failed)} failed, ${number(exceptions)} with an exception, ${number(late)} timed out`;
  return failures(totals) === 0 ? "0" : h("span", { title }, brief(failures(totals)));
}

export function empty(title, ...how) {
  return h("div.empty", null, h("p.empty-title", null, title), how.length > 0 && h("p", null, how));
}

export function card(title, props, ...children) {
  const { actions, ...rest } = props ?? {};
  return h("section.card", { ...rest, key: title, "aria-label": title },
    h("header.card-head", null, h("h2", null, title), actions && h("div.card-actions", null, actions)),
    children);
}

// A description list of terms and values.
export function facts(pairs) {
  return h("dl.facts", null, pairs.filter(Boolean).map(([term, value]) => h("div", { key: term }, h("dt", null, term), h("dd", null, value ?? NONE))));
}

// --- tables

// State of each table shown: row positions, and whether its order was just changed.
const held = new Map();
// More rows would slow down every refresh.
const MOST_ROWS = 500;

// The rows in the chosen order. They keep their positions while the table has the pointer or the focus.
function ordered(columns, rows, chosen, held) {
  const column = columns.find((candidate) => candidate.id === chosen.by) ?? columns[0];
  const sign = chosen.down ? -1 : 1;
  const value = column.value ?? (() => 0);
  const sorted = [...rows].sort((one, other) => sign * compare(value(one), value(other)) || compare(one.key, other.key));
  if (held) {
    const place = (row) => chosen.places.get(row.key) ?? Number.MAX_SAFE_INTEGER;
    return sorted.sort((one, other) => place(one) - place(other));
  }
  sorted.forEach((row, index) => chosen.places.set(row.key, index));
  return sorted;
}

// Whether rows must keep their positions; forgets the positions if not.
function holdsStill(id, chosen) {
  const body = document.querySelector(`[data-table="${id}"] tbody`);
  const held = body && !chosen.turned && (body.matches(":hover") || body.contains(document.activeElement));
  chosen.turned = false;
  if (!held) {
    chosen.places.clear();
  }
  return held;
}

function compare(one, other) {
  if (typeof one === "string" && typeof other === "string") {
    return one < other ? -1 : Number(one > other);
  }
  return (one ?? -1) - (other ?? -1);
}

// The sort order in the URL, "queued" or "-queued" for descending, or the default.
function orderOf(columns, key, by, down) {
  const text = parameter(key);
  const id = text.replace(/^-/, "");
  return columns.some((column) => column.id === id && column.value) ? { by: id, down: text.startsWith("-") } : { by, down };
}

function heading(column, chosen, key) {
  const sorted = chosen.by === column.id;
  const props = { key: column.id, scope: "col", class: classesOf(column), "aria-sort": sorted ? (chosen.down ? "descending" : "ascending") : undefined };
  if (!column.value) {
    return h("th", props, column.label ? h("span", { title: column.title }, column.label) : h("span.hidden", null, "Actions"));
  }
  const click = () => {
    const down = sorted ? !chosen.down : Boolean(column.number);
    setParameter(key, `${down ? "-" : ""}${column.id}`);
    chosen.turned = true;
    redraw();
  };
  return h("th", props, h("button.sort", { type: "button", title: column.title, on: { click } }, column.label, h("span.arrow", { "aria-hidden": "true" }, sorted ? (chosen.down ? "▾" : "▴") : "")));
}

// A table. A column has `id`, `label`, `cell(row)` and, if it is sortable, `value(row)`; a row has a `key`.
// `groups` are `{key, head, rows}`. The chosen order is in the URL parameter named by `sort`. On a narrow
// screen every row becomes a card with a label before each cell.
export function table({ id, label, columns, rows, groups, by, down = true, sortable = true, sort = "sort" }) {
  if (!held.has(id)) {
    held.set(id, { places: new Map(), turned: false });
  }
  const chosen = Object.assign(held.get(id), orderOf(columns, sort, by, down));
  const still = holdsStill(id, chosen);
  const shown = sortable ? columns : columns.map((column) => ({ ...column, value: undefined }));
  const line = (row) => h("tr", { key: row.key, "data-row": row.key }, columns.map((column) => tableCell(column, row)));
  const lines = groups
    ? groups.flatMap((group) => [
        h("tr.group", { key: `group ${group.key}`, "data-group": group.key }, h("th", { scope: "colgroup", colspan: columns.length }, group.head)),
        ...ordered(columns, group.rows, chosen, still).map(line),
      ])
    : (sortable ? ordered(columns, rows, chosen, still) : rows).slice(0, MOST_ROWS).map(line);
  const hidden = (rows?.length ?? 0) - MOST_ROWS;
  return h("div.scroll", { key: `table ${id}` },
    hidden > 0 && h("p.more", { key: "more" }, `These are the first ${number(MOST_ROWS)} in this order; ${number(hidden)} are not shown. Filter to find them.`),
    h("table.cards", { "data-table": id },
      h("caption.hidden", null, label),
      h("thead", null, h("tr", null, shown.map((column) => heading(column, chosen, sort)))),
      h("tbody", null, lines)));
}

// A `flex` column takes the remaining width and truncates; `less` and `least` columns are hidden on narrow
// screens.
function classesOf(column) {
  return [column.number && "number", column.flex && "flex", column.class].filter(Boolean).join(" ");
}

// Zero and unknown values are dimmed.
function tableCell(column, row) {
  const content = column.cell(row);
  const classes = [classesOf(column), (content === "0" || content === NONE) && "zero"];
  const props = { key: column.id, scope: column.head ? "row" : undefined, "data-label": column.label, "data-column": column.id, class: classes.filter(Boolean).join(" ") };
  return h(column.head ? "th" : "td", props, h("span.cell", null, content));
}

// A search field. Its text is in the URL parameter `filter`.
export function searchField(label) {
  return h("label.search", { key: label },
    h("span.hidden", null, label),
    h("input", { type: "search", placeholder: `${label}  ( / )`, value: parameter("filter"), "data-filter": "", "data-live": "", autocomplete: "off", spellcheck: "false", on: { input: (event) => { setParameter("filter", event.target.value); redraw(); } } }));
}

// Whether one of the texts matches the filter, ignoring case.
export function fitsFilter(...texts) {
  const wanted = parameter("filter").toLowerCase();
  return texts.some((text) => text.toLowerCase().includes(wanted));
}

// A segmented control: `options` are [value, label].
export function segments(label, options, value, onChoose) {
  return h("div.segments", { role: "group", "aria-label": label, key: label }, options.map(([key, text]) =>
    h("button", { type: "button", key, "aria-pressed": String(key === value), on: { click: () => { onChoose(key); redraw(); } } }, text)));
}

// --- menus

// A button that opens a menu of actions: [label, act, {danger}].
export function menuButton(label, items) {
  return h("button.button.icon", { type: "button", "aria-haspopup": "menu", "aria-label": label, title: label, "data-menu": "", key: "menu", on: { click: (event) => openMenu(event.currentTarget, label, items()) } }, "⋯");
}

function openMenu(opener, label, items) {
  const menu = create(h("div.menu", { role: "menu", popover: "auto", "aria-label": label }, items.filter(Boolean).map(([text, act, { danger } = {}]) =>
    h("button", { type: "button", role: "menuitem", "data-action": text.toLowerCase().replace("…", ""), class: danger ? "danger" : "", on: { click: () => { menu.hidePopover(); act(); } } }, text))));
  document.body.append(menu);
  menu.addEventListener("toggle", (event) => event.newState === "closed" && menu.remove());
  menu.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      const all = [...menu.children];
      all[(all.indexOf(document.activeElement) + step + all.length) % all.length].focus();
    } else if (event.key === "Tab") {
      menu.hidePopover();
    }
  });
  menu.showPopover();
  const box = opener.getBoundingClientRect();
  const below = box.bottom + menu.offsetHeight + 8 < window.innerHeight;
  menu.style.setProperty("top", `${below ? box.bottom + 4 : Math.max(8, box.top - menu.offsetHeight - 4)}px`);
  menu.style.setProperty("left", `${Math.max(8, Math.min(box.right - menu.offsetWidth, window.innerWidth - menu.offsetWidth - 8))}px`);
  menu.firstChild?.focus();
}

// --- dialogs

// Shows a form in a dialog. Resolves to its values by name, or to null if cancelled. `fields` are
// descriptions; `ready(values)` says whether the form may be submitted.
export function ask({ title, text, fields = [], confirm = "OK", danger = false, ready = () => true }) {
  const opener = document.activeElement;
  return new Promise((resolve) => {
    let answer = null;
    const values = () => Object.fromEntries(new FormData(form).entries());
    const check = () => {
      submit.disabled = !ready(values());
    };
    const dialog = create(h("dialog.dialog", { "aria-labelledby": "dialog-title" },
      h("form", { method: "dialog", on: { input: check } },
        h("h2", { id: "dialog-title" }, title),
        text && h("p", null, text),
        fields,
        h("div.dialog-buttons", null,
          h("button.button", { type: "button", "data-action": "dismiss", on: { click: () => dialog.close() } }, "Cancel"),
          h("button.button", { type: "submit", class: danger ? "danger solid" : "solid", "data-action": "confirm" }, confirm)))));
    const form = dialog.querySelector("form");
    const submit = dialog.querySelector("[data-action=confirm]");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      answer = values();
      dialog.close();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (opener?.isConnected) {
        opener.focus();
      }
      resolve(answer);
    });
    document.body.append(dialog);
    check();
    dialog.showModal();
    (dialog.querySelector("input, select, textarea") ?? submit).focus();
  });
}

// A labelled form field.
export function field(label, kind, props, hint, children = []) {
  return h("label.field", { key: props.name ?? label }, h("span.field-label", null, label), h(kind, { autocomplete: "off", ...props }, children), hint && h("span.hint", null, hint));
}

// A dialog without a choice.
export function tell(title, ...content) {
  const opener = document.activeElement;
  const dialog = create(h("dialog.dialog", { "aria-labelledby": "dialog-title" },
    h("h2", { id: "dialog-title" }, title), content,
    h("div.dialog-buttons", null, h("button.button.solid", { type: "button", on: { click: () => dialog.close() } }, "Close"))));
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (opener?.isConnected) {
      opener.focus();
    }
  });
  document.body.append(dialog);
  dialog.showModal();
}

// --- messages

const MESSAGE_MS = 6000;
const MOST_MESSAGES = 4;
const messages = [];
let messageNumber = 0;

// Shows a message for a while. An error stays longer, and is announced by screen readers at once.
export function toast(text, failed = false) {
  messageNumber += 1;
  const message = { key: messageNumber, text, failed };
  messages.push(message);
  if (messages.length > MOST_MESSAGES) {
    messages.shift();
  }
  drawMessages();
  setTimeout(() => dismiss(message), failed ? 2 * MESSAGE_MS : MESSAGE_MS);
}

function dismiss(message) {
  const index = messages.indexOf(message);
  if (index >= 0) {
    messages.splice(index, 1);
    drawMessages();
  }
}

function drawMessages() {
  render(document.getElementById("toasts"), messages.map((message) =>
    h("div.toast", { key: message.key, class: message.failed ? "failed" : "", role: message.failed ? "alert" : "status" },
      h("span", null, visible(message.text)),
      h("button.close", { type: "button", "aria-label": "Dismiss", on: { click: () => dismiss(message) } }, "×"))));
}

// A number in short form, with the full number as a tooltip.
export function counted(value) {
  return value < 100_000 ? number(value) : count(value);
}

export function count(value, title = number(value)) {
  return h("span", { title }, brief(value));
}
