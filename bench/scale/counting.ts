import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const PROCESS = fileURLToPath(new URL('./counting-process.ts', import.meta.url));
/** No TurboFan, and no Maglev, which Node has had since 22. */
const UNOPTIMISED = ['--no-opt', '--no-maglev'];

/**
 * What `count` of a module answers, called with a `WorkCounter` and the arguments in a process of its own. V8 counts the blocks of what is compiled
 * after counting began, and forgets to count what is optimised or made part of its caller: so the counter comes before the code, and nothing is optimised.
 */
export function counted(module: URL, ...args: readonly string[]): unknown {
  const output = execFileSync(process.execPath, [...UNOPTIMISED, '--import', 'tsx', PROCESS, module.href, ...args], { encoding: 'utf8' });
  return JSON.parse(output);
}
