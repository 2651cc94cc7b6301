import { createReadStream, createWriteStream } from 'node:fs';
import { access, constants, stat } from 'node:fs/promises';
import { PassThrough } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip, createGzip } from 'node:zlib';
import { UsageError } from './command.ts';

/** A recording that cannot be what it says: names the file and, counted from 1, the line. */
export class RecordingError extends Error {
  constructor(file: string, line: number, what: string) {
    super(`${file}:${line}: ${what}`);
    this.name = 'RecordingError';
  }
}

/** One line of a recording: its fields, read with their types checked. */
export class RecordedLine {
  readonly file: string;
  readonly number: number;
  readonly op: string;
  readonly #fields: Readonly<Record<string, unknown>>;

  /** @throws RecordingError when the text is no JSON object with an `op`. */
  constructor(file: string, number: number, text: string) {
    this.file = file;
    this.number = number;
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      throw new RecordingError(file, number, 'is no JSON');
    }
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new RecordingError(file, number, 'is no JSON object');
    this.#fields = value as Record<string, unknown>;
    const { op } = this.#fields;
    if (typeof op !== 'string') throw new RecordingError(file, number, "has no 'op'");
    this.op = op;
  }

  fail(what: string): never {
    throw new RecordingError(this.file, this.number, `${this.op}: ${what}`);
  }

  has(field: string): boolean {
    return this.#fields[field] !== undefined;
  }

  /** A 64-bit value: a hexadecimal string, or a number that is a safe integer; negative ones as two's complement. */
  u64(field: string): bigint {
    return this.#u64(this.#fields[field], field);
  }

  /** A value that fits 32 bits, written either way. */
  u32(field: string): number {
    const value = this.u64(field);
    if (value > 0xffff_ffffn) this.fail(`'${field}' is wider than 32 bits`);
    return Number(value);
  }

  /** A number, negative ones too. */
  integer(field: string): number {
    const value = this.#fields[field];
    return typeof value === 'number' && Number.isSafeInteger(value) ? value : this.fail(`'${field}' is no integer`);
  }

  text(field: string): string {
    const value = this.#fields[field];
    return typeof value === 'string' ? value : this.fail(`'${field}' is no string`);
  }

  u64List(field: string): readonly bigint[] {
    const value = this.#fields[field];
    return Array.isArray(value) ? value.map((entry) => this.#u64(entry, field)) : this.fail(`'${field}' is no list`);
  }

  /** Objects within the line, each read like a line. */
  objects(field: string): readonly RecordedLine[] {
    const value = this.#fields[field];
    if (!Array.isArray(value)) this.fail(`'${field}' is no list`);
    return value.map(
      (entry) => new RecordedLine(this.file, this.number, JSON.stringify({ ...(entry as object), op: `${this.op}.${field}` })),
    );
  }

  object(field: string): RecordedLine {
    const value = this.#fields[field];
    if (typeof value !== 'object' || value === null) this.fail(`'${field}' is no object`);
    return new RecordedLine(this.file, this.number, JSON.stringify({ ...value, op: `${this.op}.${field}` }));
  }

  #u64(value: unknown, field: string): bigint {
    if (typeof value === 'number' && Number.isSafeInteger(value)) return BigInt.asUintN(64, BigInt(value));
    if (typeof value === 'string' && /^0x[0-9a-f]{1,16}$/i.test(value)) return BigInt(value);
    return this.fail(`'${field}' is no 64-bit value`);
  }
}

/** Characters that one line may have; no operation comes near. */
const LINE_LIMIT = 1 << 24;

/** How large the file is, for progress. @throws UsageError when it cannot be read. */
export async function bytesOf(file: string): Promise<number> {
  try {
    await access(file, constants.R_OK);
    const found = await stat(file);
    if (!found.isDirectory()) return found.size;
  } catch (error) {
    throw new UsageError(`${file} cannot be read: ${(error as NodeJS.ErrnoException).code}`);
  }
  throw new UsageError(`${file} is no file`);
}

/** How far a recording is read, in compressed bytes. */
export interface ReadProgress {
  readonly bytesRead: number;
}

/**
 * The lines of a recording (JSON lines, gzipped when the name ends in .gz), in order.
 * @throws RecordingError for a line that is no recorded operation, and for a file that breaks off; the system's error when it cannot be opened.
 */
export async function* recordedLines(file: string, progress?: (read: ReadProgress) => void): AsyncGenerator<RecordedLine> {
  const source = createReadStream(file);
  const stream = file.endsWith('.gz') ? source.pipe(createGunzip()) : source;
  // pipe() does not pass on what the source reports.
  if (stream !== source) source.on('error', (error) => stream.destroy(error));
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let number = 0;
  let rest = '';
  try {
    for await (const chunk of stream) {
      const lines = decoder.decode(chunk as Buffer, { stream: true }).split('\n');
      // V8 joins strings without copying them; searching the whole again for each chunk would be quadratic.
      lines[0] = rest + lines[0];
      if (lines[0].length > LINE_LIMIT) throw new RecordingError(file, number + 1, `is longer than ${LINE_LIMIT} characters`);
      rest = lines.pop()!;
      progress?.({ bytesRead: source.bytesRead });
      for (const text of lines) {
        number++;
        if (text !== '') yield new RecordedLine(file, number, text);
      }
    }
  } catch (error) {
    if (error instanceof RecordingError || isSystemError(error)) throw error;
    throw new RecordingError(file, number + 1, `cannot be read on: ${(error as Error).message}`);
  }
  if (rest !== '') yield new RecordedLine(file, number + 1, rest);
}

/** A file that a recording is written to, gzipped when its name ends in .gz; all of it is there once `end` has resolved. */
export class RecordingFile {
  readonly #stream = new PassThrough();
  readonly #written: Promise<void>;

  constructor(file: string) {
    const sink = createWriteStream(file);
    this.#written = file.endsWith('.gz') ? pipeline(this.#stream, createGzip({ level: 9 }), sink) : pipeline(this.#stream, sink);
    // A failure is the end's to tell, whenever it happens.
    this.#written.catch(() => {});
  }

  write(text: string): void {
    this.#stream.write(text);
  }

  /** @throws the system's error when it could not be written */
  async end(): Promise<void> {
    this.#stream.end();
    await this.#written;
  }
}

/** ENOENT, EACCES, EISDIR: about the file, not about what it holds (zlib's codes begin with Z). */
function isSystemError(error: unknown): boolean {
  return error instanceof Error && 'syscall' in error;
}
