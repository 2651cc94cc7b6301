import { requireObject, requireString } from '../../memory/arguments.ts';
import type { TestMachine } from './machine.ts';

/** QEMU's docs/devel/testing/qtest.rst, "QTest Protocol": one command a line, one answer a line. */

/** Bytes of one transfer; characters of one line, with two for each of those bytes. */
const TRANSFER_LIMIT = 1 << 24;
export const LINE_LIMIT = 2 * TRANSFER_LIMIT + 256;
const WIDTHS: Readonly<Record<string, number>> = { b: 1, w: 2, l: 4, q: 8 };

/** A command that cannot be carried out; the message is the answer. */
class Refusal extends Error {}

/**
 * What a machine answers to the commands of a qtest client.
 *
 * @example
 * const protocol = new QtestProtocol(testMachine('q35'));
 * protocol.answer(''); // null
 * protocol.answer('nonsense').startsWith('FAIL'); // true
 */
export class QtestProtocol {
  readonly #machine: TestMachine;
  /** Virtual time in nanoseconds. */
  #clock = 0n;

  constructor(machine: TestMachine) {
    requireObject('QtestProtocol', 'machine', machine, 'machine', ['reset']);
    this.#machine = machine;
  }

  /** The answer to one line; null for an empty one. */
  answer(line: string): string | null {
    requireString('QtestProtocol', 'line', line);
    const words = line.trim().split(/\s+/);
    if (words[0] === '') return null;
    try {
      const result = this.#command(words as [string, ...string[]]);
      return result === '' ? 'OK' : `OK ${result}`;
    } catch (error) {
      if (error instanceof Refusal) return `FAIL ${error.message}`;
      throw error;
    }
  }

  #command(words: readonly [string, ...string[]]): string {
    const { space } = this.#machine;
    const [name] = words;
    const number = (at: number) => numberOf(words[at], name);
    const size = (at: number) => sizeOf(number(at), name);
    const scalar = /^(read|write)([bwlq])$/.exec(name);
    if (scalar !== null) {
      const bytes = WIDTHS[scalar[2]!]!;
      if (scalar[1] === 'read') return `0x${space.read(number(1), bytes).toString(16).padStart(16, '0')}`;
      space.write(number(1), bytes, BigInt.asUintN(8 * bytes, number(2)));
      return '';
    }
    const port = /^(in|out)([bwl])$/.exec(name);
    if (port !== null && this.#machine.ports) return this.#port(port[1]!, WIDTHS[port[2]!]!, number);
    switch (name) {
      case 'read':
      case 'b64read': {
        const bytes = new Uint8Array(size(2));
        space.readBytes(number(1), bytes);
        return name === 'read' ? `0x${Buffer.from(bytes).toString('hex')}` : Buffer.from(bytes).toString('base64');
      }
      case 'write':
      case 'b64write': {
        const text = words[3] ?? '';
        const given = name === 'write' ? Buffer.from(text.replace(/^0x/, ''), 'hex') : Buffer.from(text, 'base64');
        const bytes = new Uint8Array(size(2));
        bytes.set(given.subarray(0, bytes.length));
        space.writeBytes(number(1), bytes);
        return '';
      }
      case 'memset':
        space.writeBytes(number(1), new Uint8Array(size(2)).fill(Number(number(3) & 0xffn)));
        return '';
      case 'endianness':
        return 'little';
      case 'clock_step':
        // Nothing here waits for a clock, so without a number there is no next moment to go to.
        this.#clock += words[1] === undefined ? 0n : number(1);
        return `${this.#clock}`;
      case 'clock_set':
        this.#clock = number(1);
        return `${this.#clock}`;
      case 'irq_intercept_in':
      case 'irq_intercept_out':
      case 'module_load':
        return '';
    }
    throw new Refusal(`Unknown command '${name}'`);
  }

  #port(direction: string, bytes: number, number: (at: number) => bigint): string {
    const { pci } = this.#machine;
    const at = Number(number(1) & 0xffffn);
    const config = at >= 0xcf8 && at < 0xd00;
    const ones = (1n << BigInt(8 * bytes)) - 1n;
    if (direction === 'in') {
      const value = config ? BigInt(pci.readPort(at, bytes)) : (pci.readIo(at, bytes) ?? ones);
      return `0x${value.toString(16).padStart(4, '0')}`;
    }
    const value = number(2) & ones;
    if (config) pci.writePort(at, bytes, Number(value));
    else pci.writeIo(at, bytes, value);
    return '';
  }
}

/** Decimal, octal or hexadecimal, as strtoull takes it; negative ones as two's complement. */
function numberOf(text: string | undefined, command: string): bigint {
  const found = /^(-?)(0x[0-9a-f]+|0[0-7]*|[1-9][0-9]*)$/i.exec(text ?? '');
  if (found === null) throw new Refusal(`${command}: ${text ?? 'nothing'} is no number`);
  const [, sign, digits = '0'] = found;
  const value = BigInt(/^0[0-7]+$/.test(digits) ? `0o${digits.slice(1)}` : digits);
  return BigInt.asUintN(64, sign === '-' ? -value : value);
}

function sizeOf(value: bigint, command: string): number {
  if (value > BigInt(TRANSFER_LIMIT)) throw new Refusal(`${command}: ${value} bytes are more than ${TRANSFER_LIMIT}`);
  return Number(value);
}
