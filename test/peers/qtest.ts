import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/*
 * QEMU as a peer: its emulated IOMMUs, driven from here over qtest. No CPU runs; this process is the guest, and reads and
 * writes guest memory, registers and ports (QEMU, docs/devel/testing/qtest.rst, "QTest Protocol").
 *
 *   const qemu = await Qtest.start('x86_64', ['-machine', 'q35', '-m', '256M', '-device', 'iommu-testdev,addr=4.0']);
 *   qemu.writel(0x1000, 1);                    // no await: the next line does not wait for it …
 *   const value = await qemu.readl(0x1000);    // … but is done after it: QEMU answers in order
 *   await qemu.dispose();                      // in afterAll; or `await using qemu = …`
 *
 * Every access is a promise, and thousands may be on their way: put them out in a loop, await the last, or
 * Promise.all of the reads. About 6 µs each in a pipeline, 60 µs when each is awaited. A write that nobody awaits and
 * that fails is an unhandled rejection, which vitest reports: errors do not get lost. Addresses are number or bigint,
 * 32-bit values are unsigned numbers, 64-bit values are bigint. `-accel qtest`, `-nodefaults` and no display are added.
 *
 * Beside it: pci.ts (configuration space, BARs), testdev.ts (DMA through the IOMMU under test).
 * QEMU itself is what test/lab/setup-qemu brings.
 */

export type Arch = 'x86_64' | 'aarch64' | 'riscv64' | 'ppc64' | 's390x';
export type Address = number | bigint;

const lab = fileURLToPath(new URL('../lab/', import.meta.url));
const versions = new Map<Arch, string>();

/**
 * First line of `qemu-system-ARCH --version`; installs QEMU with the lab's script where it is not installed yet (minutes).
 * @throws Error when it cannot be set up.
 */
function qemuVersion(arch: Arch): string {
  const known = versions.get(arch);
  if (known !== undefined) return known;
  const script = join(lab, 'qemu');
  const ask = () => execFileSync(script, [arch, '--version'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  let text: string;
  try {
    text = ask();
  } catch {
    execFileSync(join(lab, 'setup-qemu'), { stdio: ['ignore', 'ignore', 'inherit'] });
    text = ask();
  }
  const version = text.split('\n')[0];
  versions.set(arch, version);
  return version;
}

interface Waiter {
  resolve(reply: string): void;
  reject(error: Error): void;
}

function hex(value: Address): string {
  return `0x${value.toString(16)}`;
}

export class Qtest {
  readonly arch: Arch;
  readonly version: string;
  readonly #child: ChildProcess;
  readonly #folder: string;
  readonly #waiters: Waiter[] = [];
  #answered = 0;
  #socket: Socket | null = null;
  #unsent: string[] = [];
  #received: string[] = [];
  #stderr = '';
  #failure: Error | null = null;

  /** Starts QEMU and waits until it has connected. @throws Error with QEMU's own words when it does not start. */
  static async start(arch: Arch, args: readonly string[]): Promise<Qtest> {
    const version = qemuVersion(arch);
    const folder = mkdtempSync(join(tmpdir(), 'viommu-qtest-'));
    const path = join(folder, 'qtest');
    const server = createServer();
    await new Promise<void>((resolve, reject) => server.once('error', reject).listen(path, resolve));
    const common = ['-accel', 'qtest', '-nodefaults', '-display', 'none', '-serial', 'none', '-monitor', 'none'];
    // QEMU gets killed with the process that started it, even when that one is killed itself.
    const command = [join(lab, 'qemu'), arch, ...common, '-qtest', `unix:${path}`, '-qtest-log', 'none', ...args];
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', ...command], { stdio: ['ignore', 'ignore', 'pipe'] });
    const qtest = new Qtest(arch, version, child, folder);
    try {
      await qtest.#connect(server);
    } catch (error) {
      await qtest.dispose();
      throw error;
    } finally {
      server.close();
    }
    return qtest;
  }

  private constructor(arch: Arch, version: string, child: ChildProcess, folder: string) {
    this.arch = arch;
    this.version = version;
    this.#child = child;
    this.#folder = folder;
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-4000);
    });
    child.once('error', (error) => this.#fail(error));
    // `close` comes after the last of stderr, `exit` need not.
    child.once('close', (code, signal) => this.#fail(new Error(`QEMU ended (${signal ?? code})\n${this.#stderr}`)));
  }

  #connect(server: Server): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiters.push({ resolve: () => undefined, reject });
      server.once('connection', (socket) => {
        this.#waiters.pop();
        this.#socket = socket;
        socket.setEncoding('latin1');
        socket.on('data', (text: string) => this.#receive(text));
        // When QEMU ends, `close` of the process says why.
        socket.on('error', () => undefined);
        resolve();
      });
    });
  }

  /** Kills QEMU and waits until it is gone. Idempotent. */
  async dispose(): Promise<void> {
    this.#socket?.destroy();
    const child = this.#child;
    if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) {
      const gone = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGKILL');
      await gone;
    }
    rmSync(this.#folder, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  /** One line of the protocol; resolves with what stands behind `OK`. */
  command(line: string): Promise<string> {
    return new Promise((resolve, reject) => {
      if (this.#failure) {
        reject(this.#failure);
        return;
      }
      this.#waiters.push({ resolve, reject: (error) => reject(new Error(`qtest ${line.slice(0, 80)}: ${error.message}`)) });
      // What one turn of the event loop asks for goes out in one piece.
      if (this.#unsent.push(line) === 1) queueMicrotask(() => this.#send());
    });
  }

  #send(): void {
    const lines = this.#unsent;
    this.#unsent = [];
    this.#socket?.write(`${lines.join('\n')}\n`);
  }

  #receive(text: string): void {
    const end = text.lastIndexOf('\n');
    if (end < 0) {
      this.#received.push(text);
      return;
    }
    const lines = (this.#received.join('') + text.slice(0, end)).split('\n');
    this.#received = [text.slice(end + 1)];
    for (const line of lines) {
      // Interrupts are announced out of turn, when asked for.
      if (!line.startsWith('IRQ ')) this.#answer(line);
    }
  }

  #answer(line: string): void {
    const waiter = this.#waiters[this.#answered++];
    // The queue is cut now and then: `shift` on a long array moves it whole.
    if (this.#answered > 1024) {
      this.#waiters.splice(0, this.#answered);
      this.#answered = 0;
    }
    if (line.startsWith('OK')) waiter?.resolve(line.slice(3));
    else waiter?.reject(new Error(line));
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    for (const waiter of this.#waiters.splice(0).slice(this.#answered)) waiter.reject(error);
    this.#answered = 0;
  }

  async #number(line: string): Promise<number> {
    return Number(await this.command(line));
  }

  async #none(line: string): Promise<void> {
    await this.command(line);
  }

  readb(address: Address): Promise<number> {
    return this.#number(`readb ${hex(address)}`);
  }
  readw(address: Address): Promise<number> {
    return this.#number(`readw ${hex(address)}`);
  }
  readl(address: Address): Promise<number> {
    return this.#number(`readl ${hex(address)}`);
  }
  async readq(address: Address): Promise<bigint> {
    return BigInt(await this.command(`readq ${hex(address)}`));
  }
  writeb(address: Address, value: number): Promise<void> {
    return this.#none(`writeb ${hex(address)} ${hex(value & 0xff)}`);
  }
  writew(address: Address, value: number): Promise<void> {
    return this.#none(`writew ${hex(address)} ${hex(value & 0xffff)}`);
  }
  writel(address: Address, value: number): Promise<void> {
    return this.#none(`writel ${hex(address)} ${hex(value >>> 0)}`);
  }
  writeq(address: Address, value: bigint): Promise<void> {
    return this.#none(`writeq ${hex(address)} ${hex(BigInt.asUintN(64, value))}`);
  }

  /** Reads bytes as the CPU would; any length but 0. */
  async read(address: Address, bytes: number): Promise<Uint8Array> {
    return Buffer.from(await this.command(`b64read ${hex(address)} ${hex(bytes)}`), 'base64');
  }

  write(address: Address, bytes: Uint8Array): Promise<void> {
    const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64');
    return this.#none(`b64write ${hex(address)} ${hex(bytes.byteLength)} ${text}`);
  }

  fill(address: Address, bytes: number, value: number): Promise<void> {
    return this.#none(`memset ${hex(address)} ${hex(bytes)} ${hex(value)}`);
  }

  inl(port: number): Promise<number> {
    return this.#number(`inl ${hex(port)}`);
  }
  outl(port: number, value: number): Promise<void> {
    return this.#none(`outl ${hex(port)} ${hex(value >>> 0)}`);
  }

  /** Lets virtual time pass; without an argument until the next timer. Resolves with the clock, in nanoseconds. */
  clockStep(nanoseconds?: number): Promise<number> {
    return this.#number(nanoseconds === undefined ? 'clock_step' : `clock_step ${nanoseconds}`);
  }
}
