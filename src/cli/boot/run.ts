import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { FileBackend } from '../../vmm/devices/index.ts';
import { VfioUserServer } from '../../vmm/vfio-user/index.ts';
import { RecordingFile } from '../recording.ts';
import { debianGuest } from './debian.ts';
import { type EndpointReport, Endpoints } from './endpoints.ts';
import { type ExtraModule, initramfs } from './initramfs.ts';
import { Qemu } from './qemu.ts';
import { functionArgument, type GuestChoices, type GuestFunction, type GuestRecipe, type GuestUnit } from './recipe.ts';
import { Recorder } from './record/recorder.ts';
import { bystander, type Deliver, type Witness } from './record/witness.ts';
import { findQemu } from './tools.ts';

/** What the guest, or this side, says of one thing that should be so. */
export interface Check {
  readonly name: string;
  readonly ok: boolean;
  /** Why not. */
  readonly detail?: string;
}

/** What a guest did. */
export interface BootReport {
  readonly iommu: string;
  readonly qemu: string;
  readonly kernel: string;
  readonly seconds: number;
  readonly checks: readonly Check[];
  readonly notes: readonly string[];
  /** The guest's words on forbidden DMA. */
  readonly faults: readonly string[];
  readonly registers: { readonly reads: number; readonly writes: number };
  readonly endpoints: EndpointReport;
  /** The end of the console, when something is not as it should be. */
  readonly console?: readonly string[];
}

export interface BootOptions {
  readonly recipe: GuestRecipe;
  readonly choices: GuestChoices;
  /** Another kernel than Debian's; its modules are Debian's then, if they fit. */
  readonly kernel: string | null;
  /** More modules for the guest, loaded before its own. */
  readonly modules: readonly ExtraModule[];
  readonly seconds: number;
  /** Where to write what the guest did to its IOMMU; null: nowhere. */
  readonly record: string | null;
  readonly line: (text: string) => void;
  readonly progress: (text: string) => void;
}

/** What tells a process to end; with a listener Node ends itself, and says so to who listens for that. */
const ENDING = ['SIGHUP', 'SIGINT', 'SIGTERM'] as const;
const DISK_BYTES = 16 << 20;
/** Starts: firmware puts the registers somewhere else than expected at most once. */
const STARTS = 2;

const PANIC = /Kernel panic - not syncing/;

/** Boots a guest and waits for its end. Nothing is left behind: no process, no socket, no file. */
export async function boot(options: BootOptions): Promise<BootReport> {
  const { recipe, choices } = options;
  const qemu = await findQemu(recipe.arch, recipe.qemuPackage);
  const guest = await debianGuest(recipe.debianArch, recipe.suite, options.progress);
  const folder = mkdtempSync(join(tmpdir(), 'viommu-boot-'));
  // Also where the process is told to end meanwhile: QEMU ends itself the same way (qemu.ts).
  const remove = () => rmSync(folder, { recursive: true, force: true });
  // 128 and the signal, as shells say it.
  const told = (signal: NodeJS.Signals) => process.exit(128 + constants.signals[signal]);
  process.once('exit', remove);
  for (const signal of ENDING) process.once(signal, told);
  try {
    options.progress('making the initramfs');
    const initrd = join(folder, 'initrd');
    writeFileSync(
      initrd,
      await initramfs(guest, [...recipe.modules, ...choices.tasks.flatMap((task) => recipe.taskModules[task] ?? [])], options.modules),
    );
    const disk = join(folder, 'disk');
    writeFileSync(disk, '');
    truncateSync(disk, DISK_BYTES);
    const backend = new FileBackend(disk);
    try {
      const recording = options.record === null ? null : new RecordingFile(options.record);
      const witness = recording === null ? bystander() : new Recorder(recording);
      const machine = new GuestMachine(recipe, choices, backend, witness);
      const report = await machine.run(qemu, { folder, kernel: options.kernel ?? guest.kernel, initrd }, options);
      await recording?.end();
      return report;
    } finally {
      backend.close();
    }
  } finally {
    for (const signal of ENDING) process.off(signal, told);
    process.off('exit', remove);
    remove();
    options.progress('');
  }
}

/** One guest: the unit and the devices, their sockets, QEMU, and what it said. */
class GuestMachine {
  readonly #recipe: GuestRecipe;
  readonly #choices: GuestChoices;
  readonly #unit: GuestUnit;
  readonly #endpoints: Endpoints;
  readonly #servers: VfioUserServer[] = [];
  readonly #console: string[] = [];
  readonly #checks: Check[] = [];
  readonly #notes: string[] = [];
  readonly #faults: string[] = [];
  #inUse = false;
  #remapping = false;
  #ended = false;
  #failure: Error | null = null;

  constructor(recipe: GuestRecipe, choices: GuestChoices, backend: FileBackend, witness: Witness) {
    this.#recipe = recipe;
    this.#choices = choices;
    const deliver: Deliver = (address, data) => this.#endpoints.deliver(address, data);
    this.#unit = recipe.build(choices, deliver, witness);
    this.#endpoints = new Endpoints(this.#unit, backend, choices.tasks.includes('network'));
  }

  get #functions(): readonly GuestFunction[] {
    return [...this.#unit.functions, ...this.#endpoints.functions];
  }

  async run(
    qemu: { readonly path: string; readonly version: string },
    files: { readonly folder: string; readonly kernel: string; readonly initrd: string },
    options: BootOptions,
  ): Promise<BootReport> {
    const socketOf = (fn: GuestFunction) => join(files.folder, `${fn.name}.sock`);
    const began = performance.now();
    try {
      for (const fn of this.#functions) {
        const failed = (error: unknown) => {
          this.#failure ??= error instanceof Error ? error : new Error(String(error));
        };
        this.#servers.push(
          await VfioUserServer.listen({ path: socketOf(fn), device: fn.device, memory: fn.memory, transport: 'native', failed }),
        );
      }
      let base = this.#recipe.guess;
      for (let start = 0; start < STARTS; start++) {
        const args = [
          ...['-nodefaults', '-no-user-config', '-display', 'none', '-monitor', 'none', '-serial', 'stdio'],
          ...(await this.#unit.arguments({ ...files, qemu: qemu.path }, base)),
          ...this.#functions.flatMap((fn) => functionArgument(fn, socketOf(fn))),
        ];
        const moved = await this.#once(qemu.path, args, base, options);
        if (moved === null) break;
        base = moved;
      }
    } finally {
      for (const server of this.#servers) server.close();
    }
    return this.#report(qemu.version, (performance.now() - began) / 1000);
  }

  /** Runs QEMU to its end. An address: firmware has put the registers there, and the tables say otherwise. */
  async #once(path: string, args: readonly string[], base: bigint, options: BootOptions): Promise<bigint | null> {
    options.progress('booting');
    const qemu: Qemu = new Qemu(path, args, (text) => {
      this.#line(text);
      options.line(text);
      // Otherwise it would boot again, and again.
      if (PANIC.test(text)) void qemu.kill();
    });
    let moved: bigint | null = null;
    const timer = setTimeout(() => {
      this.#checks.push({ name: 'in time', ok: false, detail: `it did not end within ${options.seconds} s` });
      void qemu.kill();
    }, options.seconds * 1000);
    const watch = setInterval(() => {
      const found = this.#unit.base();
      if (this.#failure !== null) void qemu.kill();
      if (found === null || found === base || this.#unit.registers.writes > 0) return;
      moved = found;
      void qemu.kill();
    }, 20);
    const end = await qemu.ended;
    clearTimeout(timer);
    clearInterval(watch);
    if (moved === null && (end.code !== 0 || !this.#ended))
      this.#checks.push({ name: 'qemu', ok: false, detail: `it ended with ${end.code}${end.stderr === '' ? '' : `: ${end.stderr}`}` });
    return moved;
  }

  #line(text: string): void {
    this.#console.push(text);
    if (this.#console.length > 2000) this.#console.splice(0, 1000);
    if (this.#recipe.inUse.test(text)) this.#inUse = true;
    if (this.#recipe.remapping?.test(text)) this.#remapping = true;
    if (this.#recipe.fault.test(text)) this.#faults.push(text.replace(/^\[[ .\d]*\] /, ''));
    const said = /viommu: (check|note|end) ?(.*)$/.exec(text);
    if (said === null) return;
    const [, kind, rest = ''] = said;
    const check = /^(\S+) (ok|failed)(?:: (.*))?$/.exec(rest);
    if (kind === 'end') this.#ended = true;
    else if (kind === 'note') this.#notes.push(rest);
    else if (check !== null) {
      const [, name = '', answer, detail] = check;
      this.#checks.push({ name, ok: answer === 'ok', ...(detail !== undefined && { detail }) });
    }
  }

  #report(qemu: string, seconds: number): BootReport {
    const { report } = this.#endpoints;
    const own = (name: string, ok: boolean, detail: string): Check => (ok ? { name, ok } : { name, ok, detail });
    const checks: Check[] = [
      ...this.#checks,
      own('driver', this.#inUse, `the guest did not say ${this.#recipe.inUse.source}`),
      ...(this.#choices.remap
        ? [own('interrupts remapped', this.#remapping, `the guest did not say ${this.#recipe.remapping?.source}`)]
        : []),
      own('fault seen', this.#faults.length > 0, `the guest did not say ${this.#recipe.fault.source}`),
      own('interrupts', report.interrupts.delivered > 0, 'no message of a device reached the guest'),
      own('disk faults', report.diskDma.faults === 0, `${report.diskDma.faults} accesses of the disk were refused`),
      own('no exception', this.#failure === null, this.#failure?.stack ?? ''),
      own('to the end', this.#ended, 'the guest did not come to the end of its checks'),
    ];
    const good = checks.every(({ ok }) => ok);
    return {
      iommu: this.#recipe.iommu,
      qemu,
      kernel: /kernel (\S+)/.exec(this.#notes.join('\n'))?.[1] ?? 'none',
      seconds: Math.round(seconds * 10) / 10,
      checks,
      notes: this.#notes,
      faults: this.#faults,
      registers: { ...this.#unit.registers },
      endpoints: report,
      ...(!good && { console: this.#console.slice(-60) }),
    };
  }
}
