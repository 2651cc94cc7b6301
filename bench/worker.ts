/** Measures one variant in this process: `worker.ts ROW VARIANT MILLISECONDS`, one line of JSON on stdout. */
import { Bench } from 'tinybench';
import { registry } from './registry.ts';
import { CHECKED, lowPercentile, type Sample } from './sample.ts';

const [name, variantName, milliseconds] = process.argv.slice(2);
const { row } = await registry[name]();
const variant = row.variants.find((one) => one.name === variantName);
if (variant === undefined) throw new RangeError(`${name} has no variant ${variantName}`);

const work = variant.setup();
const before = () => work.before?.();
let checksum = 0;
for (let i = 0; i < CHECKED; i++) {
  before();
  checksum = (checksum + work.batch()) | 0;
}

let sink = 0;
const time = Number(milliseconds);
const bench = new Bench({ time, iterations: 3, warmupTime: time, warmupIterations: 3, throws: true, retainSamples: true });
bench.add(
  variant.name,
  () => {
    sink ^= work.batch();
  },
  { beforeEach: before, async: false },
);
const [task] = bench.runSync();
if (task.result.state !== 'completed') throw new Error(`${name} ${variantName}: ${task.result.state} (${sink})`);
const sample: Sample = { nsPerOp: (lowPercentile(task.result.latency.samples ?? []) * 1e6) / work.operations, checksum };
process.stdout.write(`${JSON.stringify(sample)}\n`);
