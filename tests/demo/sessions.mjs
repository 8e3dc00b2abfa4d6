// The official client library, used as any client uses it.

import { createRequire } from 'node:module';

const require = createRequire(`${process.env.MCP_HOME}/package.json`);
const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StdioClientTransport } = require('@modelcontextprotocol/sdk/client/stdio.js');

/** Starts a server as its configuration says, and shakes hands. */
export async function connect({ command, args }) {
  const client = new Client({ name: 'guard-demo', version: '1.0.0' });
  const transport = new StdioClientTransport({ command, args, cwd: '/', stderr: 'pipe' });
  let chatter = '';
  transport.stderr.setEncoding('utf8').on('data', (text) => { chatter += text; });
  try {
    await client.connect(transport);
  } catch (error) {
    console.error(`\n${command} ${args.join(' ')}\nhas not started: ${error.message}\n${chatter}`);
    process.exit(1);
  }
  return client;
}

/** Calls a tool. `theft` is what the hostile server tells of itself. */
export async function call(client, tool, args) {
  const result = await client.callTool({ name: tool, arguments: args });
  return {
    tool,
    path: args.path,
    isError: result.isError === true,
    text: (result.content ?? []).map((part) => part.text ?? '').join('\n'),
    theft: result.structuredContent?.theft,
  };
}
