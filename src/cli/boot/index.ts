import { readFileSync, statSync } from 'node:fs';
import { basename } from 'node:path';
import { type Command, EXIT_OK, EXIT_WRONG, type Output, UsageError } from '../command.ts';
import { requireOutputFile } from '../output-file.ts';
import { recipes } from './machines/registry.ts';
import type { GuestTask } from './recipe.ts';
import { type BootReport, boot } from './run.ts';

interface Options {
  readonly iommu: string;
  readonly kernel?: string;
  readonly module: readonly string[];
  readonly cpus: string;
  readonly timeout: string;
  readonly remap: boolean;
  readonly variant?: string;
  readonly record?: string;
  readonly task: readonly string[];
  readonly append: readonly string[];
  readonly console: boolean;
  readonly json: boolean;
}

const collect = (value: string, before: readonly string[]) => [...before, value];

/** A stock Linux under QEMU whose IOMMU and disk are this process's. */
export const bootCommand: Command = {
  name: 'boot',
  summary: "boots a stock Linux on viommu's IOMMU and has it use a disk behind it",
  define: (command, output, end) => {
    const names = recipes.map(({ iommu }) => iommu);
    command
      .option('--iommu <kind>', `which IOMMU the guest sees: ${names.join(', ')}`, 'vtd')
      .option('--kernel <file>', "another kernel than Debian's")
      .option('--module <file>', 'a module that the guest loads first', collect, [])
      .option('--cpus <n>', 'processors of the guest', '1')
      .option('--timeout <seconds>', 'ends the guest after that', '120')
      .option('--remap', "has the devices' interrupts remapped by the IOMMU", false)
      .option('--variant <name>', "a variant of the IOMMU's own")
      .option('--task <name>', 'something more that the guest does: reboot, rebind, network', collect, [])
      .option('--append <text>', "more for the kernel's command line", collect, [])
      .option('--record <file>', 'writes what the guest did to its IOMMU, for `viommu replay`')
      .option('--console', "shows the guest's console on standard error", false)
      .action(async (options: Options) => end(await run(options, output)));
  },
};

async function run(options: Options, output: Output): Promise<number> {
  const recipe = recipes.find(({ iommu }) => iommu === options.iommu);
  if (recipe === undefined) throw new UsageError(`--iommu ${options.iommu} is none of ${recipes.map(({ iommu }) => iommu).join(', ')}`);
  if (options.kernel !== undefined && !isFile(options.kernel)) throw new UsageError(`--kernel ${options.kernel} is no file`);
  const missing = options.module.find((file) => !isFile(file));
  if (missing !== undefined) throw new UsageError(`--module ${missing} is no file`);
  if (recipe.needsModule && options.module.length === 0)
    throw new UsageError(
      `--iommu ${recipe.iommu} needs a --module that puts the devices into domains: Linux has no DMA API on this IOMMU (docs/guests.md)`,
    );
  const isKnown = (task: string): task is GuestTask => (recipe.tasks as readonly string[]).includes(task);
  const unknown = options.task.find((task) => !isKnown(task));
  if (unknown !== undefined) throw new UsageError(`--task ${unknown}: ${recipe.iommu} has ${recipe.tasks.join(', ')}`);
  if (options.variant !== undefined && !recipe.variants.includes(options.variant))
    throw new UsageError(`--variant ${options.variant}: ${recipe.iommu} has ${recipe.variants.join(', ') || 'none'}`);
  if (options.remap && recipe.remapping === null) throw new UsageError(`--remap: ${recipe.iommu} remaps no interrupts`);
  if (options.record !== undefined && !recipe.recordable) throw new UsageError(`--record: ${recipe.iommu} cannot be recorded`);
  if (options.record !== undefined) requireOutputFile('--record', options.record);
  const report = await boot({
    recipe,
    choices: {
      cpus: positive('--cpus', options.cpus, 8),
      remap: options.remap,
      tasks: options.task.filter(isKnown),
      append: options.append,
      variant: options.variant ?? null,
    },
    kernel: options.kernel ?? null,
    modules: options.module.map((file) => ({ name: basename(file, '.ko'), content: readFileSync(file) })),
    record: options.record ?? null,
    seconds: positive('--timeout', options.timeout, 3600),
    line: options.console ? (text) => output.err(text) : () => {},
    progress: (text) => output.progress?.(text),
  });
  const good = report.checks.every(({ ok }) => ok);
  if (options.json) output.out(JSON.stringify(report));
  else describe(report, output);
  return good ? EXIT_OK : EXIT_WRONG;
}

function positive(name: string, value: string, most: number): number {
  const number = Number(value);
  if (!Number.isInteger(number) || number < 1 || number > most) throw new UsageError(`${name} ${value} is not in 1..${most}`);
  return number;
}

function describe(report: BootReport, { out, err }: Output): void {
  out(`Linux ${report.kernel} on ${report.iommu}, QEMU ${report.qemu}: ${report.seconds} s\n`);
  for (const { name, ok, detail } of report.checks)
    out(`  ${ok ? 'ok    ' : 'FAILED'} ${name}${detail === undefined ? '' : `: ${detail}`}`);
  const { registers, endpoints } = report;
  const { disk, diskDma, interrupts } = endpoints;
  out('');
  out(`  registers   ${registers.reads} reads, ${registers.writes} writes`);
  out(`  disk        ${disk.reads} reads, ${disk.writes} writes, ${disk.flushes} flushes, ${disk.bytes} bytes, ${disk.errors} errors`);
  out(`  its DMA     ${diskDma.reads} reads, ${diskDma.writes} writes, ${diskDma.bytes} bytes, ${diskDma.faults} refused`);
  out(`  interrupts  ${interrupts.sent} sent, ${interrupts.delivered} delivered`);
  for (const fault of report.faults) out(`  fault       ${fault}`);
  for (const line of report.console ?? []) err(line);
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
}
