// What a person writes into the configuration of an MCP client: the server's command, behind
// `guard run`. And the same commands as they were before.

const { DEMO, MCP_HOME, DEMO_PROJECT, DEMO_TRAIL, DEMO_AS } = process.env;

const POLICY = `${DEMO}/policies/filesystem.toml`;

/** The commands, by the servers' names. `port` is where the hostile one sends what it steals. */
function commands(port) {
  return {
    filesystem: [`${MCP_HOME}/node_modules/.bin/mcp-server-filesystem`, DEMO_PROJECT],
    hostile: ['node', `${DEMO}/hostile.mjs`, DEMO_PROJECT, String(port)],
  };
}

function guarded(name, command) {
  return {
    command: 'guard',
    args: ['run', '--user', DEMO_AS, '--policy', POLICY, '--name', name,
      '--audit-file', DEMO_TRAIL, '--', ...command],
  };
}

/** As the same ordinary user, but with all that user's rights. */
function plain(command) {
  return {
    command: 'runuser',
    args: ['-u', DEMO_AS, '--', ...command],
  };
}

export function configurations(port) {
  const each = (make) => Object.fromEntries(Object.entries(commands(port)).map(make));
  return {
    guarded: each(([name, command]) => [name, guarded(name, command)]),
    plain: each(([name, command]) => [name, plain(command)]),
  };
}
