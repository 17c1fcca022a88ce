// Names and workloads that try to be more than text do no harm, on any page and at any width.

import assert from "node:assert/strict";

import { encode, eventually, same } from "./browser.mjs";
import { Client, Worker } from "./gearman.mjs";

const SCRIPT = "<script>window.harmed=1</script>";
const IMAGE = "<img src=x onerror=window.harmed=1>";

// What peers may call a function, and a part of what is to be read of it.
const NAMES = [
  [SCRIPT, SCRIPT],
  [IMAGE, IMAGE],
  ["javascript:window.harmed=1", "javascript:"],
  ["\u202eevil\u2066", "‹202E›evil‹2066›"],
  ["שלום עולם", "שלום"],
  ["🦀🐘 emoji", "🦀🐘"],
  ["x".repeat(500), "xxxxxxxx"],
  [Buffer.from([0x66, 0xff, 0xfe, 0x01, 0x6f]), "f\ufffd\ufffd␁o"],
  ["a/b?c#d&e=f%41", "a/b?c#d&e=f%41"],
  ["../../etc", "../../etc"],
  ["__proto__", "__proto__"],
  ["constructor", "constructor"],
  ["", "empty"],
  [".", "."],
  ["..", ".."],
  ["Shop\\Export\\xAdapter", "Shop\\Export\\xAdapter"],
  [`"'>${IMAGE}`, "\"'>"],
];

const WORKLOADS = [SCRIPT, Buffer.from([0, 1, 2, 0xff, 0xfe, 0x80]), "\u202eback\u0000", "", "🦀".repeat(300), `{"a": "${IMAGE}"}`];

// A name in an address: what is no part of a path has an equals sign before it.
const segment = (name) => (["", ".", ".."].includes(name) ? `=${name}` : encode(name));

async function noHarm(dashboard, where) {
  const found = await dashboard.page.evaluate(() => ({
    harmed: window.harmed,
    elements: document.querySelectorAll("main script, main img, main iframe, .menu img, dialog img, .toast img").length,
    links: [...document.querySelectorAll("a")].filter((link) => !["http:", "https:"].includes(link.protocol)).length,
    wide: document.documentElement.scrollWidth - window.innerWidth,
  }));
  assert.deepEqual({ ...found, wide: Math.max(0, found.wide) }, { harmed: undefined, elements: 0, links: 0, wide: 0 }, where);
}

export async function hostile(dashboard, port, say) {
  const client = new Client(port);
  const handles = [];
  for (const [index, [name]] of NAMES.entries()) {
    handles.push(await client.submit(name, { workload: WORKLOADS[index % WORKLOADS.length], unique: typeof name === "string" ? name.slice(0, 20) : name }));
  }
  const worker = new Worker(port, [IMAGE, Buffer.from([0xff, 0x80])], "</td><script>window.harmed=1</script>");
  await eventually("its job", () => worker.jobs.length === 1);
  for (const viewport of [{ width: 1280, height: 900 }, { width: 390, height: 844 }]) {
    await dashboard.page.setViewportSize(viewport);
    await lists(dashboard);
    await eachFunction(dashboard, handles);
    await eachJob(dashboard, handles);
    await workerPage(dashboard);
    say(`${viewport.width} pixels wide`);
  }
  await actionsOnBytes(dashboard);
  say("actions");
  await strangeAddresses(dashboard);
  say("addresses");
  dashboard.quiet("404", "400");
}

async function lists(dashboard) {
  for (const route of ["", "functions", "workers", "jobs", "server", "submit"]) {
    await dashboard.go(route);
    await eventually(`the content of ${route}`, async () => !/Loading…|Waiting for the first/.test(await dashboard.page.locator("main").innerText()));
    await noHarm(dashboard, route);
  }
  await dashboard.go("functions");
  const shown = await eventually("all functions", async () => {
    const rows = Object.values(await dashboard.table("functions"));
    return rows.length >= NAMES.length && rows.map((row) => row.name);
  });
  for (const [, readable] of NAMES) {
    assert.ok(shown.some((text) => text.includes(readable)), `${readable} among ${shown.join(" | ")}`);
  }
}

async function eachFunction(dashboard, handles) {
  for (const [index, [name, readable]] of NAMES.entries()) {
    await dashboard.go(`functions/${segment(name)}`);
    await eventually(`the page of ${readable}`, async () => (await dashboard.page.locator("h1").innerText()).includes(readable));
    await same("its one job", async () => Object.keys(await dashboard.table("function-jobs")), () => [handles[index]]);
    await noHarm(dashboard, readable);
  }
}

async function eachJob(dashboard, handles) {
  for (const [index, handle] of handles.entries()) {
    await dashboard.go(`jobs/${encodeURIComponent(handle)}`);
    await eventually("the workload", () => dashboard.page.locator(".workload, .empty").count());
    for (const form of ["Text", "Hex", "Base64"]) {
      await dashboard.page.getByRole("button", { name: form, exact: true }).click();
      await noHarm(dashboard, `${form} of ${index}`);
    }
  }
}

async function workerPage(dashboard) {
  const { workers } = await dashboard.api("workers");
  await dashboard.go(`workers/${workers[0].id}`);
  await eventually("its functions", async () => Object.keys(await dashboard.table("worker-functions")).length === 2);
  await noHarm(dashboard, "worker");
}

// A name that is no text can be acted upon, since its address has every byte.
async function actionsOnBytes(dashboard) {
  for (const [name] of NAMES) {
    await dashboard.go(`functions/${segment(name)}`);
    await dashboard.click("pause");
    await same("paused", async () => (await dashboard.api(`functions/${segment(name)}`)).paused, () => true);
    await noHarm(dashboard, "paused");
  }
  await dashboard.click("purge");
  await noHarm(dashboard, "the question before a purge");
  await dashboard.page.keyboard.press("Escape");
}

async function strangeAddresses(dashboard) {
  for (const route of ["nowhere", "functions/%", "functions/%FF%", "workers/<b>", "jobs/%E0%A4%A", "jobs?after=x&state=y", "workers?state=%3Cscript%3E", "?x", "functions/a/b"]) {
    await dashboard.go(route);
    await noHarm(dashboard, route);
  }
  await dashboard.go("");
  await eventually("the overview", () => dashboard.value("queued"));
}
