// What is looked at stands in the address: a link, a reload and the way back show the same. And what the page says of the server
// and of time: its name and address, ages though a clock is set, a job that waits and one that is at work.

import assert from "node:assert/strict";
import { hostname } from "node:os";

import { eventually, parseNumber, same } from "./browser.mjs";
import { Client, Managed, Worker } from "./gearman.mjs";

export async function address(dashboard, port, say) {
  const client = new Client(port);
  const workers = ["first", "second", "third"].map((name) => new Worker(port, [`do_${name}`, "do_all"], `id-${name}`));
  for (const [name, count] of [["paint", 1], ["print", 3], ["press", 2], ["other", 5]]) {
    for (let index = 0; index < count; index += 1) {
      await client.submit(name);
    }
  }
  await functionsCanBeLinkedTo(dashboard);
  say("functions");
  await workersCanBeLinkedTo(dashboard);
  say("workers");
  await fleetCanBeLinkedTo(dashboard, port);
  say("fleet");
  await theServerIsNamed(dashboard, port);
  say("the server's name");
  await agesOutliveTheClock(dashboard);
  say("ages");
  await aJobAtWorkIsNoJobThatWaits(dashboard, port);
  say("a job at work");
  workers.forEach((worker) => worker.end());
  dashboard.quiet();
}

const rows = (dashboard, id) => dashboard.page.locator(`[data-table="${id}"] tbody tr[data-row]`).evaluateAll((all) => all.map((row) => row.dataset.row));

async function functionsCanBeLinkedTo(dashboard) {
  const { page } = dashboard;
  const shown = () => rows(dashboard, "functions");
  await dashboard.go("functions");
  await page.locator("[data-filter]").fill("pr");
  await same("filtered, by what waits", shown, () => ["print", "press"]);
  await page.locator("[data-table=functions] .sort", { hasText: "Queued" }).click();
  await page.mouse.move(0, 0);
  await same("the other way", shown, () => ["press", "print"]);
  assert.match(page.url(), /#\/functions\?filter=pr&sort=queued$/);
  await page.reload();
  await same("after a reload", shown, () => ["press", "print"]);
  assert.equal(await page.locator("[data-filter]").inputValue(), "pr");
  await page.locator("[data-table=functions] a", { hasText: "print" }).click();
  await same("one function", () => page.locator("main h1 .name").textContent(), () => "print");
  await page.goBack();
  await same("on the way back", shown, () => ["press", "print"]);
  assert.equal(await page.locator("[data-filter]").inputValue(), "pr");
  await page.goForward();
  await same("forward", () => page.locator("main h1 .name").textContent(), () => "print");
  await dashboard.go("functions?sort=-name&filter=%E2%82%AC");
  await page.getByText("No function has this in its name.").waitFor();
  await dashboard.go("functions?sort=-name&filter=p");
  await same("a link", shown, () => ["print", "press", "paint"]);
  for (const sort of ["nothing", "-", "actions", "__proto__", "%FF", "%3Cscript%3E"]) {
    await dashboard.go(`functions?sort=${sort}&filter=pr`);
    await same(`no order: ${sort}`, shown, () => ["print", "press"]);
  }
}

async function workersCanBeLinkedTo(dashboard) {
  const { page } = dashboard;
  const shown = async () => Object.values(await dashboard.table("workers")).map((row) => row.client);
  await dashboard.go("workers?filter=id-&sort=-client");
  await same("in the order of the link", shown, () => ["id-third", "id-second", "id-first"]);
  await page.locator("select").selectOption("asleep");
  await eventually("the state in the address", () => /state=asleep/.test(page.url()));
  assert.match(page.url(), /filter=id-/);
  assert.match(page.url(), /sort=-client/);
  await page.goBack();
  await same("the state before", () => page.locator("select").inputValue(), () => "");
}

async function fleetCanBeLinkedTo(dashboard, port) {
  const { page } = dashboard;
  assert.equal(await page.locator("nav a[data-nav=fleet]").count(), 0, "no fleet, no page of it in the menu");
  const managed = [new Managed(port, "web-1", { fleet: "web" }), new Managed(port, "web-2", { fleet: "web", state: "leaving" })];
  await page.locator("nav a[data-nav=fleet]").waitFor();
  await dashboard.go("fleet?state=leaving");
  await same("those that leave", () => rows(dashboard, "fleet"), () => ["web-2"]);
  await page.locator("main select").selectOption("idle");
  await same("those that are idle", () => rows(dashboard, "fleet"), () => ["web-1"]);
  await page.reload();
  await same("after a reload", () => rows(dashboard, "fleet"), () => ["web-1"]);
  managed.forEach((peer) => peer.end());
  await page.locator("nav a[data-nav=fleet]", { hasText: "2" }).waitFor({ state: "detached" });
}

// With several servers open beside each other the title and the head of the page tell them apart.
async function theServerIsNamed(dashboard, port) {
  const { page } = dashboard;
  const host = hostname().toLowerCase();
  await dashboard.go("functions");
  await eventually("the title", async () => (await page.title()) === `Functions · ${host} (${new URL(page.url()).host})`);
  await same("the head", () => page.locator("#identity").innerText(), () => `${host}\n127.0.0.1:${port}`);
}

// The clock of the machine with the browser is set by a day, back and forth: ages are as before, and nobody calls the server lost.
async function agesOutliveTheClock(dashboard) {
  const { page } = dashboard;
  const day = 86_400_000;
  for (const step of [day, -day]) {
    await page.evaluate((milliseconds) => {
      const now = window.realNow ?? Date.now.bind(Date);
      window.realNow = now;
      Date.now = () => now() + milliseconds;
    }, step);
    await dashboard.go("functions");
    await dashboard.go("jobs?function=other");
    await eventually("jobs", async () => Object.keys(await dashboard.table("jobs")).length === 5);
    for (const { age } of Object.values(await dashboard.table("jobs"))) {
      assert.match(age, /^(\d+ s|\dm( \d+s)?)$/, "an age of seconds or minutes");
    }
    assert.equal(await page.locator("#banner [role=alert]").count(), 0);
  }
  await page.reload();
}

async function aJobAtWorkIsNoJobThatWaits(dashboard, port) {
  const { page } = dashboard;
  await dashboard.go("submit");
  await page.locator("[name=function]").fill("slow");
  await dashboard.click("submit");
  await same("it waits", () => dashboard.value("busy"), () => "Waiting for a worker…");
  const worker = new Worker(port, ["slow"]);
  await eventually("its job", () => worker.jobs.length === 1);
  worker.progress(worker.jobs[0], 1, 4);
  await same("it is at work", () => dashboard.value("busy"), () => "A worker has it…");
  worker.complete("done");
  await page.locator("[data-value=busy]").waitFor({ state: "detached" });
  assert.equal(parseNumber(await page.locator(".events").innerText()) > 0, true);
  worker.end();
}
