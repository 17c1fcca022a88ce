// Each button does what it says; what the server refuses is shown; tokens are asked for; who may only look has no buttons.

import assert from "node:assert/strict";

import { eventually, same } from "./browser.mjs";
import { Client, Managed, Monitor, Worker, text } from "./gearman.mjs";

const TOKEN = "token-of-the-test-1234";

export async function actions(dashboard, port, say) {
  await functionButtons(dashboard, port);
  say("functions");
  await jobButtons(dashboard, port);
  say("jobs");
  await workerButtons(dashboard, port);
  say("workers");
  await rulesAreLifted(dashboard, port);
  say("rules");
  dashboard.quiet("/api/v1/jobs/", "/api/v1/functions/made", "/api/v1/workers/");
}

async function functionButtons(dashboard, port) {
  const fn = (name) => dashboard.api(`functions/${name}`);
  const client = new Client(port);
  const worker = new Worker(port, ["parcel"]);
  await client.submit("parcel", { workload: "first" });
  await eventually("the first job", () => worker.jobs.length === 1);
  await dashboard.go("functions/parcel");

  await dashboard.click("pause");
  await same("paused", async () => (await fn("parcel")).paused, () => true);
  await dashboard.page.locator("h1 .badge", { hasText: "paused" }).waitFor();
  await client.submit("parcel", { workload: "second" });
  await client.submit("parcel", { workload: "third" });
  worker.complete();
  await same("nothing is handed out", async () => [(await fn("parcel")).running, (await fn("parcel")).totals.done, worker.jobs.length], () => [0, 1, 0]);
  await dashboard.click("pause");
  await eventually("the second job", () => worker.jobs.length === 1);

  await dashboard.click("limits");
  await dashboard.confirm({ running: "1", high: "7", normal: "8", low: "9" });
  await same("limits", async () => [(await fn("parcel")).max_running, (await fn("parcel")).max_queue], () => [1, [7, 8, 9]]);

  await dashboard.click("move-all");
  await dashboard.confirm({ to: "letter" });
  await dashboard.message('Moved 1 job to "letter"');
  await same("moved", async () => (await fn("letter")).queued.normal, () => 1);

  await dashboard.go("functions/letter");
  await dashboard.click("purge");
  const confirm = dashboard.page.locator("dialog [data-action=confirm]");
  assert.ok(await confirm.isDisabled(), "nothing was typed");
  await dashboard.page.locator("dialog [name=typed]").fill("lette");
  assert.ok(await confirm.isDisabled(), "another name was typed");
  await dashboard.confirm({ typed: "letter" });
  await same("purged", async () => [(await fn("letter")).queued.normal, (await fn("letter")).totals.cancelled], () => [0, 1]);

  await dashboard.go("functions");
  await dashboard.click("create");
  await dashboard.confirm({ name: "made" });
  await same("created", async () => (await fn("made")).name, () => "made");
  await dashboard.choose("functions", "made", "pause");
  await same("paused from the list", async () => (await fn("made")).paused, () => true);
  await dashboard.go("functions/made");
  await dashboard.click("forget");
  await dashboard.confirm();
  await eventually("forgotten", async () => !(await dashboard.api("functions")).functions.some((one) => one.name === "made"));
  await eventually("the list", () => dashboard.page.url().endsWith("#/functions"));
  worker.end();
}

async function jobButtons(dashboard, port) {
  const job = (handle) => dashboard.api(`jobs/${encodeURIComponent(handle)}`);
  const gone = (handle) => eventually("the end of the job", async () => (await fetch(`${dashboard.base}/api/v1/jobs/${encodeURIComponent(handle)}`)).status === 404);
  const client = new Client(port);
  const handle = await client.submit("sorting", { workload: "x", unique: "same" });
  await dashboard.go(`jobs/${encodeURIComponent(handle)}`);
  await dashboard.click("priority high");
  await same("priority", async () => (await job(handle)).priority, () => "high");
  await same("priority is shown", () => dashboard.value("priority"), () => "high");

  // Equal jobs of one function cannot be.
  await client.submit("crowded", { unique: "same" });
  await dashboard.click("move");
  await dashboard.confirm({ to: "crowded" });
  await dashboard.page.locator(".toast.failed").waitFor();
  assert.equal((await job(handle)).function, "sorting");
  await dashboard.click("move");
  await dashboard.confirm({ to: "roomy" });
  await same("moved", async () => (await job(handle)).function, () => "roomy");
  await dashboard.click("cancel");
  await dashboard.confirm();
  await gone(handle);

  const later = await client.submit("sorting", { due: Math.floor(Date.now() / 1000) + 3600 });
  await dashboard.go(`jobs/${encodeURIComponent(later)}`);
  await dashboard.click("run-job");
  await same("it may run", async () => (await job(later)).state, () => "queued");
  await dashboard.go("jobs?function=sorting");
  await dashboard.choose("jobs", later, "priority low");
  await same("priority from the list", async () => (await job(later)).priority, () => "low");

  // The client of a running job that is cancelled gets a failure, and its worker's result is dropped.
  const worker = new Worker(port, ["errand"]);
  const running = await client.submit("errand", { kind: "foreground" });
  await eventually("it to run", () => worker.jobs.length === 1);
  await dashboard.go("jobs?state=running");
  await dashboard.choose("jobs", running, "cancel");
  await dashboard.confirm();
  await gone(running);
  await eventually("the client's failure", () => client.ended.includes(running));
  worker.complete("late");
  const next = await client.submit("errand");
  await eventually("the next job", () => worker.jobs.includes(next));
  worker.end();
}

async function workerButtons(dashboard, port) {
  const worker = new Worker(port, ["drilling", "milling"], "lathe");
  const client = new Client(port);
  const one = async () => (await dashboard.api("workers?client=lathe")).workers[0];
  const { id } = await eventually("the worker", one);
  await client.submit("drilling");
  await eventually("its job", () => worker.jobs.length === 1);
  await dashboard.go(`workers/${id}`);
  await dashboard.click("drain");
  await same("draining", async () => (await one()).state, () => "draining");
  worker.complete();
  await same("drained", async () => (await one()).state, () => "drained");
  await dashboard.page.locator("h1 .badge", { hasText: "drained" }).waitFor();
  await client.submit("milling");
  await dashboard.click("enable");
  await eventually("a job again", () => worker.jobs.length === 1);
  worker.complete();
  await dashboard.click("disable");
  await same("disabled", async () => (await one()).state, () => "disabled");
  await dashboard.click("enable");
  await same("enabled", async () => (await one()).state !== "disabled", () => true);

  // What a menu offers is what the page knew when it was opened.
  const modes = dashboard.page.locator("[data-table=worker-functions] .badge");
  await same("both enabled, as shown", () => modes.allTextContents(), () => []);
  await dashboard.choose("worker-functions", "milling", "disable");
  await same("one function alone", async () => (await one()).functions.map((fn) => [fn.name, fn.mode]).sort(), () => [["drilling", null], ["milling", "disabled"]]);
  await same("one function alone, as shown", () => modes.allTextContents(), () => ["disabled"]);
  await dashboard.choose("worker-functions", "milling", "enable");
  await same("that function again", async () => (await one()).functions.every((fn) => fn.mode === null), () => true);
  await same("that function again, as shown", () => modes.allTextContents(), () => []);

  await rulesAreNamed(dashboard, port, worker, id);

  await dashboard.click("kick");
  await dashboard.confirm();
  await eventually("the connection to end", () => worker.closed);
  await dashboard.page.getByText("disconnected").waitFor();
}

// The rules that mean a worker stand on its page, and to enable it or one function of it ends those that are meant.
async function rulesAreNamed(dashboard, port, worker, id) {
  const rules = async () => (await dashboard.api("rules")).rules.map((rule) => `${rule.who} ${rule.function ?? "all"} ${rule.mode}`).sort();
  const shown = async () => Object.values(await dashboard.table("worker-rules")).map((rule) => `${rule.who} ${rule.function} ${rule.mode}`).sort();
  for (const rule of ["drain client:lathe milling", "disable client:lathe", "drain host:127.0.0.1 drilling", "disable client:other"]) {
    await text(port, rule, false);
  }
  const known = ["client:lathe all disabled", "client:lathe milling draining", "host:127.0.0.1 drilling draining"];
  await same("the rules of this worker", shown, () => known);
  const dialog = dashboard.page.locator("dialog");
  await dashboard.choose("worker-functions", "drilling", "enable");
  await dialog.getByText('client:lathe, all functions, disabled, host:127.0.0.1, "drilling", draining.').waitFor();
  await dashboard.page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  assert.equal((await rules()).length, 4, "nothing was confirmed");
  await dashboard.choose("worker-functions", "drilling", "enable");
  await dashboard.confirm();
  await same("what is left", rules, () => ["client:other all disabled"]);
  await dashboard.page.locator("[data-table=worker-rules]").waitFor({ state: "detached" });

  // Another function's rule stays; one whose workers are enabled on the page goes. Names are any bytes.
  // One that is no UTF-8 can be typed only while the function exists.
  worker.can(Buffer.from([0xff]));
  await eventually("its third function", async () => Object.keys(await dashboard.table("worker-functions")).length === 3);
  for (const rule of ["drain connection:ID milling", "drain connection:ID drilling", "disable connection:ID \\xff"]) {
    assert.match((await text(port, rule.replace("ID", id), false))[0], /^OK/, rule);
  }
  await same("its own rules", async () => (await shown()).length, () => 3);
  await dashboard.choose("worker-functions", "milling", "enable");
  await same("milling again", async () => (await rules()).length, () => 3);
  await same("milling again, as shown", async () => (await shown()).length, () => 2);
  for (const left of [2, 1]) {
    await dashboard.page.locator("[data-table=worker-rules] [data-action=enable-rule]").first().click();
    await same("enabled", async () => (await rules()).length, () => left);
    await same("enabled, as shown", async () => (await shown()).length, () => left - 1);
  }
  await text(port, "enable client:other", false);
  assert.equal(await dashboard.page.locator(".toast.failed").count(), 0);
}

async function rulesAreLifted(dashboard, port) {
  const workers = [new Worker(port, ["weaving"], "loom"), new Worker(port, ["weaving"], "loom")];
  const rules = async () => (await dashboard.api("rules")).rules.map((rule) => `${rule.who} ${rule.mode}`).sort();
  await dashboard.go("workers");
  await eventually("both", async () => Object.values(await dashboard.table("workers")).filter((row) => row.client === "loom").length === 2);
  for (const action of ["drain-host", "disable-host"]) {
    await dashboard.click(action);
    await dashboard.page.locator("dialog[open]", { hasText: "those that connect later" }).waitFor();
    await dashboard.page.keyboard.press("Escape");
    await dashboard.page.locator("dialog").waitFor({ state: "detached" });
  }
  assert.deepEqual(await rules(), [], "nothing was confirmed");
  await dashboard.click("drain-host");
  await dashboard.confirm();
  await same("a rule for the host", rules, () => ["host:127.0.0.1 draining"]);
  const { workers: shown } = await dashboard.api("workers?client=loom");
  await dashboard.choose("workers", shown[0].id, "drain all of this client id");
  await dashboard.confirm();
  await same("a rule for the client id", rules, () => ["client:loom draining", "host:127.0.0.1 draining"]);
  await dashboard.go("server");
  await same("both are shown", async () => Object.keys(await dashboard.table("rules")).length, () => 2);
  for (const left of [["host:127.0.0.1 draining"], []]) {
    await dashboard.page.locator("[data-table=rules] [data-action=enable-rule]").first().click();
    await same("enabled", rules, () => left);
    await same("enabled, as shown", async () => Object.keys(await dashboard.table("rules")).length, () => left.length);
  }
  await dashboard.go("workers");
  await dashboard.click("kick-host");
  await dashboard.confirm();
  await eventually("both connections to end", () => workers.every((worker) => worker.closed));
}

// The server was started with a token: looking needs none, and an action asks for it until it is right.
export async function actions_token(dashboard, port, say) {
  await new Client(port).submit("locked");
  const isPaused = async () => (await dashboard.api("functions/locked")).paused;
  await dashboard.go("functions/locked");
  await dashboard.click("pause");
  await dashboard.page.getByText("Actions on this server need a token.").waitFor();
  await dashboard.page.keyboard.press("Escape");
  await dashboard.page.locator(".toast.failed").waitFor();
  assert.equal(await isPaused(), false);
  say("declined");
  await dashboard.click("pause");
  await dashboard.page.locator("dialog [name=token]").fill("wrong");
  await dashboard.click("confirm", "dialog");
  await dashboard.page.getByText("The server does not accept this token.").waitFor();
  await dashboard.confirm({ token: TOKEN });
  await same("paused", isPaused, () => true);
  say("given");
  await dashboard.page.locator("main [data-action=pause]", { hasText: "Resume" }).click();
  await same("resumed without being asked again", isPaused, () => false);
  assert.equal(await dashboard.page.evaluate(() => JSON.stringify([Object.values(localStorage), document.cookie]).includes("token-of")), false);
  dashboard.quiet("401");
}

// The server was started as one to be looked at only.
export async function actions_readonly(dashboard, port, say) {
  const client = new Client(port);
  const handle = await client.submit("exhibit");
  const worker = new Worker(port, ["machine"], "guard");
  const fleet = [new Managed(port, "managed", { fleet: "web" }), new Monitor(port, "web", { stopped_hosts: ["web9"] })];
  await eventually("the worker", async () => (await dashboard.api("workers")).workers.length === 3);
  const { id } = (await dashboard.api("workers?client=guard")).workers[0];
  await dashboard.go("");
  await dashboard.page.locator("#connection .badge", { hasText: "read-only" }).waitFor();
  for (const route of ["functions", "functions/exhibit", "workers", `workers/${id}`, "fleet", "jobs", `jobs/${encodeURIComponent(handle)}`, "server", "submit"]) {
    await dashboard.go(route);
    await eventually(`the content of ${route}`, async () => !(await dashboard.page.locator("main").innerText()).includes("Loading…"));
    const kept = ["filter", "next-page", "first-page", "show-more"].map((action) => `:not([data-action=${action}])`).join("");
    assert.equal(await dashboard.page.locator(`main [data-action]${kept}, main [data-menu]`).count(), 0, route);
  }
  say("no buttons");
  [worker, ...fleet].forEach((peer) => peer.end());
  dashboard.quiet();
}
