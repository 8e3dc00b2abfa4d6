// How the demo shows what happens, and ends when it is not what it says.

export function heading(text) {
  console.log(`\n== ${text}`);
}

/** One line for a call and its answer, and one for each theft that the server tells of. */
export function said(where, { tool, path, isError, text, theft }) {
  const answer = text.trim().split('\n').join(' / ');
  console.log(`   ${where.padEnd(13)}  ${tool} ${path}`);
  console.log(`   ${''.padEnd(13)}  ${isError ? 'REFUSED' : 'answered'}: ${answer}`);
  if (theft) {
    console.log(`   ${''.padEnd(13)}  the key: ${outcome(theft.key)}; the connection: ${outcome(theft.sent)}`);
  }
}

function outcome(result) {
  if (result?.error) return `REFUSED (${result.error})`;
  return result?.bytes ? `stolen (${result.bytes} bytes)` : 'made, all sent';
}

/** Ends the demo when what it shows is not so. */
export function requires(condition, what) {
  if (condition) return;
  console.error(`\nNot as it should be: ${what}.`);
  process.exit(1);
}
