import { WorkCounter } from './work.ts';

/* See counting.ts. */

const counter = new WorkCounter();
const [module, ...args] = process.argv.slice(2);
const { count } = (await import(module)) as { count(counter: WorkCounter, ...args: readonly string[]): unknown };
process.stdout.write(JSON.stringify(count(counter, ...args)));
counter.close();
