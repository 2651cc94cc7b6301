import { type ChildProcess, spawn } from 'node:child_process';

/** How a QEMU ended. */
export interface QemuEnd {
  readonly code: number | null;
  readonly stderr: string;
}

/** A QEMU that runs: its console line by line, and a way to end it. */
export class Qemu {
  readonly #child: ChildProcess;
  readonly ended: Promise<QemuEnd>;
  #stderr = '';
  #line = '';

  constructor(path: string, args: readonly string[], line: (text: string) => void) {
    this.#child = spawn(path, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      const lines = (this.#line + text).split('\n');
      this.#line = lines.pop()!;
      for (const one of lines) line(one.replace(/\r/g, ''));
    });
    this.#child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-4000);
    });
    const orphaned = () => this.#child.kill('SIGKILL');
    process.once('exit', orphaned);
    this.ended = new Promise((resolve) => {
      this.#child.once('error', (error) => resolve({ code: null, stderr: error.message }));
      this.#child.once('close', (code) => {
        process.off('exit', orphaned);
        if (this.#line !== '') line(this.#line);
        resolve({ code, stderr: this.#stderr.trim() });
      });
    });
  }

  /** Ends it, and waits until it is gone. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.ended;
  }
}
