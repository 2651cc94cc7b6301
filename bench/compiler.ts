import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Compiles the C programs of bench/baseline, each once, into a directory that `close` removes. */
export class Compiler {
  /** Name and version of the compiler; null: there is none. */
  readonly version: string | null;
  readonly #command: string;
  readonly #programs = new Map<string, string>();
  #directory: string | null = null;

  constructor(command = process.env['CC'] ?? 'cc') {
    this.#command = command;
    const { status, stdout } = spawnSync(command, ['--version'], { encoding: 'utf8' });
    this.version = status === 0 ? stdout.split('\n')[0] : null;
  }

  /** Path of the compiled program. @throws Error with the compiler's messages. */
  compile(program: string): string {
    const compiled = this.#programs.get(program);
    if (compiled !== undefined) return compiled;
    this.#directory ??= mkdtempSync(join(tmpdir(), 'viommu-bench-'));
    const path = join(this.#directory, program);
    const source = fileURLToPath(new URL(`./baseline/${program}.c`, import.meta.url));
    const { status, stderr } = spawnSync(this.#command, ['-std=gnu11', '-O3', '-Wall', '-Wextra', '-o', path, source], {
      encoding: 'utf8',
    });
    if (status !== 0) throw new Error(`${this.#command} ${source}:\n${stderr}`);
    this.#programs.set(program, path);
    return path;
  }

  close(): void {
    if (this.#directory !== null) rmSync(this.#directory, { recursive: true, force: true });
    this.#directory = null;
    this.#programs.clear();
  }
}
