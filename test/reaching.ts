import { afterAll } from 'vitest';

/**
 * Counts what a property reaches: call what this returns once a program without a name, and with a name each time that the thing
 * happens. A property is named for something; a run in which a named thing never happened fails its file, for then the programs are too
 * short or too narrow to show it. A property that did not run at all (`-t`) is not judged.
 */
export function reaching<Name extends string>(property: string, ...names: Name[]): (name?: Name, times?: number) => void {
  let programs = 0;
  const counts = new Map<Name, number>(names.map((name) => [name, 0]));
  afterAll(() => {
    if (programs === 0) return;
    const missed = names.filter((name) => counts.get(name) === 0);
    if (missed.length > 0) throw new Error(`${property}: in ${programs} programs never: ${missed.join(', ')}`);
  });
  return (name, times = 1) => {
    if (name === undefined) programs++;
    else counts.set(name, counts.get(name)! + times);
  };
}
