// Two servers, each without guard and under it, asked the same by the official client; then what
// the trail says of it. Ends with 1 when anything is not as shown.

import { createServer } from 'node:net';
import { once } from 'node:events';
import { call, connect } from './sessions.mjs';
import { configurations } from './configurations.mjs';
import { checkTrail } from './trail.mjs';
import { heading, requires, said } from './show.mjs';

const { DEMO_PROJECT: project, DEMO_KEY: key } = process.env;

/** Whoever it is that stolen data is sent to: here, a port of this machine. */
async function receiver() {
  const received = [];
  const server = createServer((socket) => {
    let text = '';
    socket.setEncoding('utf8');
    socket.on('data', (data) => { text += data; });
    socket.on('error', () => {});
    socket.on('close', () => received.push(text));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { server, received, port: server.address().port };
}

async function theRealServer(plain, guarded) {
  const readme = { path: `${project}/README.md` };
  const secret = { path: `${project}/.env` };

  heading('A real server (npm: @modelcontextprotocol/server-filesystem) reads a file of the project');
  const allowed = await call(guarded, 'read_text_file', readme);
  said('under guard', allowed);
  requires(!allowed.isError && allowed.text.includes('# Payments'), 'the file must be answered');

  heading('It is asked for .env, which lies in the same directory: its own checks allow that');
  const before = await call(plain, 'read_text_file', secret);
  said('without guard', before);
  requires(!before.isError && before.text.includes('API_TOKEN='), 'the server itself must allow it');
  const denied = await call(guarded, 'read_text_file', secret);
  said('under guard', denied);
  requires(denied.isError && /EACCES|EPERM/.test(denied.text), 'the kernel must refuse it');
  requires(!denied.text.includes('tok-'), 'nothing of the secret may come out');

  const again = await call(guarded, 'read_text_file', readme);
  requires(!again.isError, 'the server must go on serving');
}

async function theHostileServer(plain, guarded, received) {
  heading(`A hostile server reads ${key} and sends it away, whatever it is asked`);
  const harmless = { path: `${project}/README.md` };
  const robbed = await call(plain, 'read_file', harmless);
  said('without guard', robbed);
  requires(robbed.theft?.key?.bytes > 0, 'without guard it must get the key');
  requires(robbed.theft?.sent === true, 'without guard it must reach its receiver');
  const stopped = await call(guarded, 'read_file', harmless);
  said('under guard', stopped);
  requires(!stopped.isError && stopped.text.includes('# Payments'), 'what it may read it must get');
  requires(/EACCES|EPERM/.test(stopped.theft?.key?.error), 'the kernel must refuse the key');
  requires(/EACCES|EPERM/.test(stopped.theft?.sent?.error), 'the kernel must refuse the connection');

  heading('It is asked for the key outright, and obeys every call');
  const asked = await call(guarded, 'read_file', { path: key });
  said('under guard', asked);
  requires(asked.isError && /EACCES|EPERM/.test(asked.text), 'the kernel must refuse the key');
  requires(received.length === 1, `one connection must have arrived, not ${received.length}`);
  console.log('   its receiver got 1 connection: the one from before guard');
}

const { server, received, port } = await receiver();
const config = configurations(port);
heading('The client\'s configuration');
console.log(JSON.stringify({ mcpServers: config.guarded }, null, 2).replace(/^/gm, '   '));
const names = Object.keys(config.guarded);
console.log('   Both servers are started under guard, and once more without it …');
const guarded = await Promise.all(names.map((name) => connect(config.guarded[name])));
const plain = await Promise.all(names.map((name) => connect(config.plain[name])));
await theRealServer(plain[0], guarded[0]);
await theHostileServer(plain[1], guarded[1], received);
await Promise.all([...plain, ...guarded].map((client) => client.close()));
server.close();
await checkTrail(names);
process.exit(0);
