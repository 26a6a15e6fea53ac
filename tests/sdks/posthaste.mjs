// Posthaste as a process of its own, with providers where a script wants them. Started with POSTHASTE, the binary, and
// DATA, a folder.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";

const PATIENCE_MS = 60_000;
setTimeout(() => {
  console.error(`not done after ${PATIENCE_MS} ms`);
  process.exit(1);
}, PATIENCE_MS).unref();

/** Starts it with these settings of `[providers.*]` (`TWILIO__FROM`) and this environment; gives its address. */
export async function start(settings, environment = {}) {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("POSTHASTE")));
  Object.assign(env, environment);
  for (const [name, value] of Object.entries(settings)) env[`POSTHASTE_PROVIDERS__${name}`] = value;
  const posthaste = spawn(process.env.POSTHASTE, ["up", "--listen", "127.0.0.1:0", "--data-dir", process.env.DATA], {
    env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  process.on("exit", () => posthaste.kill("SIGKILL"));
  return address(posthaste);
}

/** Gives it an event. */
export async function accept(intake, event) {
  const taken = await fetch(`${intake}/event`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(event),
  });
  assert.equal(taken.status, 201, await taken.text());
}

/** Waits until `found` gives something. */
export async function until(found) {
  for (;;) {
    const value = found();
    if (value) return value;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Takes what is at `path` (names with dots between) out of `object`. */
export function take(object, path) {
  const names = path.split(".");
  const last = names.pop();
  const parent = names.reduce((inner, name) => inner[name], object);
  const value = parent[last];
  delete parent[last];
  return value;
}

/** Compares what we send with what others send, but for `differs`: what of ours is another on purpose, and why. */
export function compare(name, ours, theirs, differs = {}) {
  for (const [part, reason] of Object.entries(differs)) {
    assert.notDeepEqual(take(ours, part), take(theirs, part), `${name}: ${part} no longer differs (${reason})`);
  }
  try {
    assert.deepEqual(ours, theirs);
    console.log(`${name}: as others do`);
    return true;
  } catch (error) {
    console.error(`${name}: ours is not what others send (+ ours, - theirs)\n${error.message}`);
    return false;
  }
}

/** Waits until Posthaste says where it is. */
async function address(posthaste) {
  let said = "";
  for (const stream of [posthaste.stdout, posthaste.stderr]) stream.on("data", (chunk) => (said += chunk));
  return until(() => {
    assert.equal(posthaste.exitCode, null, `posthaste ended:\n${said}`);
    return said.match(/Posthaste is at (http:\/\/\S+)/)?.[1];
  });
}
