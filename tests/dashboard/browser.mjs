// A browser with one page of the dashboard, and what the tests ask of both.

import assert from "node:assert/strict";

import { chromium } from "../clients/node_modules/playwright-core/index.mjs";

// A test that passes never waits so long. After a refresh that took long, the page rests eight times as long.
export const DEADLINE_MS = 30_000;
const POLL_MS = 40;

const ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

// Looks until `look` returns something that is true, and returns it; fails with the last reason after the deadline.
export async function eventually(what, look) {
  const end = Date.now() + DEADLINE_MS;
  for (;;) {
    let reason = "";
    try {
      const found = await look();
      if (found) {
        return found;
      }
    } catch (error) {
      reason = `: ${error.message}`;
    }
    assert.ok(Date.now() < end, `waited ${DEADLINE_MS} ms in vain for ${what}${reason}`);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

// Looks until two readings are equal.
export function same(what, read, expected) {
  return eventually(what, async () => {
    assert.deepEqual(await read(), await expected());
    return true;
  });
}

// The dashboard at `base` in a browser of its own. What goes wrong in it is gathered in `errors`.
export class Dashboard {
  static async open(base, options = {}) {
    const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ARGUMENTS });
    const it = new Dashboard();
    Object.assign(it, { base, browser, errors: [] });
    await it.newPage(options);
    return it;
  }

  async newPage(options) {
    await this.context?.close();
    this.context = await this.browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
    this.page = await this.context.newPage();
    this.page.setDefaultTimeout(DEADLINE_MS);
    this.page.on("console", (message) => ["error", "warning"].includes(message.type()) && this.errors.push(`${message.text()} (${message.location().url})`));
    this.page.on("pageerror", (error) => this.errors.push(error.stack ?? String(error)));
    this.page.on("dialog", (dialog) => {
      this.errors.push(`a dialog of the browser: ${dialog.message()}`);
      dialog.dismiss();
    });
  }

  // Shows a page by its route and waits until it is drawn.
  async go(route) {
    const url = `${this.base}/#/${route}`;
    if (this.page.url().startsWith(`${this.base}/`)) {
      // The page before, which has a heading and buttons of its own, stands until the event. The dashboard hears of it first,
      // and draws at once.
      await this.page.evaluate((hash) => new Promise((resolve) => {
        const { href } = location;
        window.addEventListener("hashchange", function hear({ newURL }) {
          if (newURL === location.href) {
            window.removeEventListener("hashchange", hear);
            resolve();
          }
        });
        location.hash = hash;
        if (location.href === href) {
          resolve();
        }
      }), `#/${route}`);
    } else {
      await this.page.goto(url);
    }
    await this.page.locator("main h1").first().waitFor();
  }

  // What the JSON interface says.
  async api(path) {
    const response = await fetch(`${this.base}/api/v1/${path}`);
    assert.ok(response.ok, `GET ${path}: ${response.status} ${await response.clone().text()}`);
    return response.json();
  }

  // The number or text of `[data-value=id]`.
  async value(id) {
    return this.page.locator(`main [data-value="${id}"]`).first().textContent({ timeout: 1000 });
  }

  // The first number of that.
  async number(id) {
    return parseNumber(await this.value(id));
  }

  // The cells of a table, by row and column.
  async table(id) {
    // As a list, since a row may be called "__proto__".
    return Object.fromEntries(await this.page.evaluate((table) => [...document.querySelectorAll(`[data-table="${table}"] tbody tr[data-row]`)].map((row) =>
      [row.dataset.row, Object.fromEntries([...row.querySelectorAll("[data-column]")].map((cell) => [cell.dataset.column, cell.textContent]))]), id));
  }

  async click(action, within = "main") {
    await this.page.locator(`${within} [data-action="${action}"]`).first().click();
  }

  // Opens the menu of a row and chooses from it.
  async choose(table, row, action) {
    await this.page.locator(`[data-table="${table}"] tr[data-row="${row}"] [data-menu]`).click();
    await this.page.locator(`.menu [data-action="${action}"]`).click();
  }

  // Fills the fields of the dialog, and confirms it.
  async confirm(fields = {}) {
    for (const [name, value] of Object.entries(fields)) {
      await this.page.locator(`dialog [name="${name}"]`).fill(value);
    }
    await this.page.locator("dialog [data-action=confirm]").click();
    await this.page.locator("dialog").waitFor({ state: "detached" });
  }

  // Waits for a message with this text.
  async message(text) {
    await this.page.locator(".toast", { hasText: text }).first().waitFor();
  }

  // No error has come up. Those that a test provokes are named.
  quiet(...expected) {
    const unexpected = this.errors.filter((error) => !expected.some((part) => error.includes(part)));
    assert.deepEqual(unexpected, []);
  }

  async close() {
    await this.browser.close();
  }
}

// "1,234 (and more)" is 1234.
export function parseNumber(text) {
  return Number(/-?[\d,]+(\.\d+)?/.exec(text)?.[0].replaceAll(",", "") ?? Number.NaN);
}

// How a browser names a function in an address.
export function encode(name) {
  return [...Buffer.from(name)].map((byte) => (/[A-Za-z0-9\-._~]/.test(String.fromCharCode(byte)) ? String.fromCharCode(byte) : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`)).join("");
}
