import { requireObject, requireString } from '../../memory/arguments.ts';
import type { TestMachine } from './machine.ts';

/** Characters of a command at most; clients' own have some hundred. */
export const COMMAND_LIMIT = 1 << 16;

/**
 * The little of QMP (QEMU's docs/interop/qmp-spec.rst) that qtest clients need.
 *
 * @example
 * const protocol = new QmpProtocol(testMachine('q35'));
 * protocol.answer('{ "execute": "qmp_capabilities" }').quit; // false
 */
export class QmpProtocol {
  readonly #machine: TestMachine;
  #negotiated = false;

  constructor(machine: TestMachine) {
    requireObject('QmpProtocol', 'machine', machine, 'machine', ['reset']);
    this.#machine = machine;
  }

  /** What is said first. */
  get greeting(): object {
    return { QMP: { version: { qemu: { micro: 0, minor: 1, major: 11 }, package: 'viommu' }, capabilities: [] } };
  }

  /** Answers to one command, in order; `quit`: the process ends behind them. */
  answer(line: string): { readonly lines: readonly object[]; readonly quit: boolean } {
    requireString('QmpProtocol', 'line', line);
    const command = commandOf(line);
    if (command === null) return { lines: [error('GenericError', 'a command is a JSON object')], quit: false };
    const withId = (answer: object) => (command.id === undefined ? answer : { ...answer, id: command.id });
    const done = (value: unknown = {}) => withId({ return: value });
    const name = typeof command.execute === 'string' ? command.execute : '';
    if (!this.#negotiated && name !== 'qmp_capabilities')
      return { lines: [withId(error('CommandNotFound', `Expecting capabilities negotiation with 'qmp_capabilities'`))], quit: false };
    switch (name) {
      case 'qmp_capabilities':
        this.#negotiated = true;
        return { lines: [done()], quit: false };
      case 'query-machines':
        return { lines: [done([this.#description()])], quit: false };
      case 'qom-list-types':
        return { lines: [done(this.#machine.deviceTypes.map((type) => ({ name: type, parent: 'device', abstract: false })))], quit: false };
      case 'query-status':
        return { lines: [done({ status: 'running', running: true })], quit: false };
      case 'system_reset':
        this.#machine.reset();
        return { lines: [done(), event('RESET', { guest: false, reason: 'host-qmp-system-reset' })], quit: false };
      case 'quit':
        return { lines: [done(), event('SHUTDOWN', { guest: false, reason: 'host-qmp-quit' })], quit: true };
    }
    return { lines: [withId(error('CommandNotFound', `The command ${name} has not been found`))], quit: false };
  }

  /** All fields that QEMU's schema has: its clients refuse an answer that lacks one. */
  #description(): object {
    const name = this.#machine.name.replace(/^(riscv|arm)-/, '');
    return {
      'hotpluggable-cpus': false,
      name,
      'numa-mem-supported': false,
      'default-cpu-type': 'max',
      'cpu-max': 1,
      deprecated: false,
      acpi: false,
    };
  }
}

/** null: the line is no JSON object, or one so deep that what it holds could not be said back. */
function commandOf(line: string): { readonly execute?: unknown; readonly id?: unknown } | null {
  try {
    const value: unknown = JSON.parse(line);
    JSON.stringify(value);
    return typeof value === 'object' && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

function error(kind: string, description: string): object {
  return { error: { class: kind, desc: description } };
}

function event(name: string, data: object): object {
  const now = Date.now();
  return { timestamp: { seconds: Math.floor(now / 1000), microseconds: (now % 1000) * 1000 }, event: name, data };
}
