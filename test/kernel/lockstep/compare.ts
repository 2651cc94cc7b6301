import type { Simulated } from './generate.ts';
import type { Outcome, Played, Poke, Step } from './program.ts';

/** The first call of a program that came to something else on the real kernel. */
export interface Difference {
  readonly seed: number;
  readonly step: number;
  readonly call: string;
  readonly real: string;
  readonly simulated: string;
}

function textOf(changes: readonly Poke[]): string {
  return changes.map(({ address, bytes }) => `${address.toString(16)}=${Buffer.from(bytes).toString('hex')}`).join(' ');
}

function describe(outcome: Outcome | undefined): string {
  return outcome === undefined ? 'nothing' : `${outcome.result} ${textOf(outcome.changes)}`.trimEnd();
}

function callOf({ name, fd, address, bytes, pokes }: Step): string {
  const argument = pokes.at(-1);
  return `${name} fd ${fd} at ${address.toString(16)}${bytes > 0 ? ` ${bytes} bytes` : ''} ${argument === undefined ? '' : Buffer.from(argument.bytes).toString('hex')}`;
}

/** What may differ, by the call, the real kernel's result and the simulated one's, and why. After it the rest of the program is not compared. */
const explained: readonly { readonly call: RegExp; readonly real: RegExp; readonly simulated: RegExp; readonly reason: string }[] = [];

/** The first difference that nobody has explained, or null. */
export function firstDifference(seed: number, { program, outcomes }: Simulated, played: Played | undefined): Difference | null {
  if (played === undefined) return { seed, step: 0, call: 'all of it', real: 'did not come to an end', simulated: 'did' };
  for (const [step, call] of program.entries()) {
    const [real, simulated] = [describe(played.outcomes[step]), describe(outcomes[step])];
    if (real === simulated) continue;
    const isExplained = explained.some((entry) => entry.call.test(call.name) && entry.real.test(real) && entry.simulated.test(simulated));
    return isExplained ? null : { seed, step, call: callOf(call), real, simulated };
  }
  if (played.warned) return { seed, step: program.length, call: 'all of it', real: 'the kernel warned of itself', simulated: 'nothing' };
  if (played.status === 0) return null;
  return { seed, step: program.length, call: 'exit', real: `status ${played.status}`, simulated: 'status 0' };
}
