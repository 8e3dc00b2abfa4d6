// What the trail must say of what has just happened.

import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { requires } from './show.mjs';

const { DEMO_TRAIL, DEMO_PROJECT, DEMO_KEY } = process.env;

/** How long the end of a server may take to reach the trail, in milliseconds. */
const PATIENCE = 20_000;

function events() {
  const lines = readFileSync(DEMO_TRAIL, 'utf8').split('\n');
  return lines.slice(0, -1).map((line) => JSON.parse(line));
}

/** Waits until the end of each server is on record, so that all of the trail is there. */
async function whole(servers) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const all = events();
    const ended = all.filter((e) => e.kind === 'sandbox' && e.op === 'stop');
    if (servers.every((name) => ended.some((e) => e.sandbox.server === name))) return all;
    requires(Date.now() < deadline, `the end of each of ${servers.join(', ')} must be on record`);
    await sleep(100);
  }
}

/** A denial during the only call in flight, of `tool`. */
function denied(all, server, tool, matches) {
  return all.filter((e) => e.sandbox?.server === server && e.verdict === 'deny'
    && e.mode === 'enforce' && e.call?.attribution === 'sole' && e.call.tool === tool && matches(e));
}

export async function checkTrail(servers) {
  const all = await whole(servers);
  const path = (wanted) => (e) => e.kind === 'file' && e.path === wanted;

  const secret = denied(all, 'filesystem', 'read_text_file', path(`${DEMO_PROJECT}/.env`));
  requires(secret.length === 1, `one denial of .env must be on record, not ${secret.length}`);
  requires(secret[0].rule?.text === '*.env', 'its rule must be *.env');
  requires(secret[0].access.includes('read'), 'its access must be read');

  const key = denied(all, 'hostile', 'read_file', path(DEMO_KEY));
  requires(key.length === 3, `three denials of the key must be on record, not ${key.length}`);
  const network = denied(all, 'hostile', 'read_file', (e) => e.kind === 'network');
  requires(network.length >= 2, `two refused connections must be on record, not ${network.length}`);

  const calls = all.filter((e) => e.kind === 'call' && e.op === 'end' && e.tool !== null);
  requires(calls.length === 5, `five calls of tools must be on record, not ${calls.length}`);
  requires(!all.some((e) => e.kind === 'loss'), 'nothing may be lost');
}
