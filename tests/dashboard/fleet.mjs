// The page of managed workers: it shows what they and their monitors say, each button does what it says, and what is said
// by hostile ones is text.

import assert from "node:assert/strict";

import { eventually, same } from "./browser.mjs";
import { Client, Managed, Monitor, Worker } from "./gearman.mjs";

const row = async (dashboard, id) => (await dashboard.table("fleet"))[id];

export async function fleet(dashboard, port, say) {
  await withoutAny(dashboard);
  say("none");
  await trueWords(dashboard, port);
  say("what workers say");
  await workerButtons(dashboard, port);
  say("buttons of workers");
  await monitors(dashboard, port);
  say("monitors");
  await hostileWords(dashboard, port);
  say("hostile words");
  await askedWhileLookedAt(dashboard, port);
  say("nobody is asked when nobody looks");
  dashboard.quiet("409");
}

// The address works, and explains.
async function withoutAny(dashboard) {
  await dashboard.go("");
  await eventually("numbers", () => dashboard.value("queued"));
  assert.equal(await dashboard.page.locator("nav [data-nav=fleet]").count(), 0);
  await dashboard.go("fleet");
  await dashboard.page.getByText("gearmand work --managed").waitFor();
}

async function trueWords(dashboard, port) {
  const since = Date.now() / 1000 - 30;
  const one = new Managed(port, "php-1", { state: "working", running: [{ function: "resize", handle: "H:x:1", since }] });
  const other = new Managed(port, "py-1", { host: "web2", language: "python", version: "2026-11-25", functionInUse: [], functionNotUse: Array.from({ length: 12 }, (_, index) => `function_${index}`), count: {}, failures: {}, pid: 17 });
  const unnamed = new Worker(port, ["setId"]);
  await dashboard.go("");
  await dashboard.page.locator("nav [data-nav=fleet]").click();
  // One that has not answered yet is shown as unknown.
  await same("both", async () => Object.values(await dashboard.table("fleet")).map((worker) => worker.state).sort(), () => ["idle", "working"]);
  await same("the one without an id", () => dashboard.number("unnamed"), () => 1);
  const [php, python] = [await row(dashboard, "php-1"), await row(dashboard, "py-1")];
  assert.deepEqual([php.state, php.done, php.failed, php.version, php.id, php.memory, php.uptime], ["working", "1,200", "3", "1php", "php-1process 4711", "20 MiB", "1h 1m"]);
  const seconds = Number(/^resizefor (\d+\.\d) sH:x:1$/.exec(php.running)?.[1]);
  assert.ok(seconds >= 29.9 && seconds <= Date.now() / 1000 - since + 0.1, php.running);
  assert.deepEqual([python.state, python.id, python.version, python.done], ["idle", "py-1process 17", "2026-11-25python", "0"]);
  assert.deepEqual(await dashboard.page.locator("[data-table=fleet] tr.group").evaluateAll((groups) => groups.map((group) => group.dataset.group)), ["web1", "web2"]);
  assert.equal(await dashboard.page.locator("[data-row=php-1] .fn-chip.in-use").getAttribute("data-function"), "resize");
  assert.equal(await dashboard.page.locator("[data-row=php-1] .fn-chip:not(.in-use)").getAttribute("data-function"), "mail");
  assert.equal(await dashboard.page.locator("[data-row=py-1] .fn-chip").count(), 8);
  await dashboard.click("show-more", "[data-row=py-1]");
  await same("all functions", () => dashboard.page.locator("[data-row=py-1] .fn-chip").count(), () => 12);
  const beyond = await dashboard.page.locator(".scroll:has([data-table=fleet])").evaluate((box) => box.scrollWidth - box.clientWidth);
  assert.equal(beyond, 0, "the table fits its page");
  await filters(dashboard);
  other.silent = true;
  await eventually("silence", async () => (await row(dashboard, "py-1")).state.startsWith("silent"));
  assert.equal((await row(dashboard, "py-1")).version, "2026-11-25python", "what it said last");
  [one, other, unnamed].forEach((worker) => worker.end());
  await eventually("their end", () => dashboard.page.getByText("No managed workers.").count());
}

async function filters(dashboard) {
  const ids = async () => Object.keys(await dashboard.table("fleet"));
  await dashboard.page.locator("[data-filter]").fill("PYTHON");
  await same("filtered", ids, () => ["py-1"]);
  await dashboard.page.locator("[data-filter]").fill("");
  await dashboard.page.locator("main select").selectOption("working");
  await same("by state", ids, () => ["php-1"]);
  await dashboard.page.locator("main select").selectOption("");
  await same("all", ids, () => ["php-1", "py-1"]);
}

async function workerButtons(dashboard, port) {
  const workers = ["php-1", "php-2", "php-3"].map((id) => new Managed(port, id));
  const [one, two, three] = workers;
  await eventually("three", async () => Object.keys(await dashboard.table("fleet")).length === 3);
  await dashboard.page.locator("[data-row=php-1] [data-action=register]").click();
  await dashboard.message('php-1 does jobs of "mail"');
  assert.deepEqual(one.asked, [{ verb: "registerFunction", arguments: { functions: ["mail"] } }]);
  await same("both in use", () => dashboard.page.locator("[data-row=php-1] .fn-chip.in-use").count(), () => 2);
  await dashboard.page.locator("[data-row=php-1] [data-function=resize] [data-action=unregister]").click();
  await dashboard.message('php-1 takes no more jobs of "resize"');
  await same("mail is left", () => dashboard.page.locator("[data-row=php-1] .fn-chip.in-use").getAttribute("data-function"), () => "mail");
  await dashboard.choose("fleet", "php-1", "new worker");
  await dashboard.message("php-1 has started another worker, process 4712.");
  await dashboard.choose("fleet", "php-1", "reload");
  await dashboard.page.locator(".toast.failed", { hasText: "its code is no file" }).waitFor();
  assert.deepEqual(one.asked.slice(2), [{ verb: "newWorker" }, { verb: "reload" }]);
  await dashboard.choose("fleet", "php-1", "exit");
  await dashboard.page.keyboard.press("Escape");
  await dashboard.page.locator("dialog").waitFor({ state: "detached" });
  await dashboard.choose("fleet", "php-1", "exit");
  await dashboard.confirm();
  await same("it leaves", async () => (await row(dashboard, "php-1")).state, () => "leaving");
  assert.equal(one.asked.filter(({ verb }) => verb === "exitWorker").length, 1, "not when it was declined");
  await dashboard.page.locator("[data-group=web1] [data-action=exit-all]").click();
  await dashboard.page.getByText("End 3 workers?").waitFor();
  await dashboard.confirm();
  await dashboard.message('3 workers on "web1" will end.');
  assert.deepEqual([two.asked, three.asked], [[{ verb: "exitWorker" }], [{ verb: "exitWorker" }]]);
  workers.forEach((worker) => worker.end());
}

async function monitors(dashboard, port) {
  const old = new Managed(port, "php-1", { fleet: "web" });
  const monitor = new Monitor(port, "web", { workers: [{ ...old.status, outdated: true }] });
  const panel = dashboard.page.locator("[data-monitor=web]");
  await panel.waitFor();
  await panel.locator(".badge", { hasText: "busy" }).waitFor();
  const functions = await dashboard.table("fleet-functions-web");
  assert.deepEqual(Object.values(functions.resize), ["resize", "3", "2", "1", "8", "41", "2", "12 s"]);
  const text = await panel.innerText();
  for (const part of ["no host has room", "newWorker at web1", "41 jobs of resize wait", "no answer within 5 s", "ops1", "process 99"]) {
    assert.ok(text.includes(part), `${part} in ${text}`);
  }
  await eventually("the outdated one", () => dashboard.page.locator("[data-row=php-1] .badge", { hasText: "outdated" }).count());
  await dashboard.click("roll", "[data-monitor=web]");
  await dashboard.confirm();
  await dashboard.message('Workers of "web" are being replaced.');
  await dashboard.click("stop-host", "[data-group=web1]");
  await dashboard.confirm();
  await dashboard.page.locator("[data-group=web1] .badge", { hasText: "stopped" }).waitFor();
  await dashboard.click("start-host", "[data-group=web1]");
  await dashboard.message('"web1" is used again.');
  await dashboard.click("roll-host", "[data-group=web1]");
  await dashboard.confirm();
  await same("what the monitor was told", async () => monitor.asked, () => [
    { verb: "roll", arguments: {} }, { verb: "stop", arguments: { host: "web1" } }, { verb: "start", arguments: { host: "web1" } }, { verb: "roll", arguments: { host: "web1" } },
  ]);
  monitor.report = { ...monitor.report, settled: true, unmet: [] };
  await panel.locator(".badge", { hasText: "settled" }).waitFor();
  [old, monitor].forEach((peer) => peer.end());
  await panel.waitFor({ state: "detached" });
}

async function hostileWords(dashboard, port) {
  const image = "<img src=x onerror=window.harmed=1>";
  const names = [image, "__proto__", "constructor", "\u202eevil", "x".repeat(500)];
  const worker = new Managed(port, "evil", { host: image, language: image, version: image, functionInUse: names, count: { toString: 1 }, failures: {}, running: [{ function: image, handle: image, since: -1e300 }], started: 1e300, uptime: 1e300, memory: Number.MAX_SAFE_INTEGER });
  const monitor = new Monitor(port, "evil", { host: image, version: image, unmet: [image], stopped_hosts: [image], functions: [{ function: "__proto__" }, { function: image, max: 1 }], events: [{ at: 1e300, what: image, why: image, error: image }] });
  for (const viewport of [{ width: 1280, height: 900 }, { width: 390, height: 844 }]) {
    await dashboard.page.setViewportSize(viewport);
    await eventually("the worker and the monitor", async () => (await dashboard.page.locator("[data-row=evil], [data-monitor=evil]").count()) === 2);
    const found = await dashboard.page.evaluate(() => [window.harmed, document.querySelectorAll("main img, main script").length, Math.max(0, document.documentElement.scrollWidth - window.innerWidth)]);
    assert.deepEqual(found, [undefined, 0, 0], `${viewport.width} wide`);
  }
  await dashboard.page.setViewportSize({ width: 1280, height: 900 });
  await same("its functions", () => dashboard.page.locator("[data-row=evil] .fn-chip.in-use").count(), () => names.length);
  await dashboard.page.locator("[data-row=evil] [data-function=__proto__] [data-action=unregister]").click();
  await dashboard.message('evil takes no more jobs of "__proto__"');
  [worker, monitor].forEach((peer) => peer.end());
}

// Rounds end with the page: others do not ask.
async function askedWhileLookedAt(dashboard, port) {
  let asked = 0;
  const worker = new Managed(port, "watched");
  const { answer } = worker;
  worker.answer = (request) => {
    asked += 1;
    return answer(request);
  };
  const before = () => asked;
  await eventually("questions again and again", () => before() >= 2);
  await dashboard.go("functions");
  // A round that was begun ends before this answer, and one that was asked for meanwhile gets the same answer.
  await dashboard.api("fleet");
  const left = asked;
  // This page is looked at for longer than the fleet's interval.
  const client = new Client(port);
  await client.submit("sentinel");
  await eventually("the page to look", async () => "sentinel" in (await dashboard.table("functions")));
  await client.submit("second");
  await eventually("the page to look again", async () => "second" in (await dashboard.table("functions")));
  await client.submit("third");
  await eventually("the page to look once more", async () => "third" in (await dashboard.table("functions")));
  assert.equal(asked, left);
  worker.end();
}
