import { expect } from 'vitest';
import { type MachineName, QtestProtocol, testMachine, type UnitName } from '../../../src/vmm/qtest/index.ts';

/** Free for BARs on all three. */
export const BAR = 0xe000_0000;
/** Device 2 of bus 0. */
export const TEST_DEVICE = 2 << 15;
export const ECAM = { 'riscv-virt': 0x3000_0000n, q35: 0xb000_0000n, 'arm-virt': 0x40_1000_0000n } as const;

/** A client of the qtest protocol that has the machine in its own process. */
export class Client {
  readonly machine;
  readonly protocol;

  constructor(name: MachineName, unit?: UnitName) {
    this.machine = testMachine(name, { ...(unit !== undefined && { unit }) });
    this.protocol = new QtestProtocol(this.machine);
  }

  ask(line: string): string {
    const answer = this.protocol.answer(line);
    if (answer === null || !answer.startsWith('OK')) throw new Error(`${line}: ${answer}`);
    return answer.slice(3);
  }
  readl = (at: number | bigint) => Number(this.ask(`readl 0x${at.toString(16)}`));
  readq = (at: number | bigint) => BigInt(this.ask(`readq 0x${at.toString(16)}`));
  writeq = (at: number | bigint, value: bigint | number) => this.ask(`writeq 0x${at.toString(16)} 0x${value.toString(16)}`);
  writel = (at: number | bigint, value: number) => this.ask(`writel 0x${at.toString(16)} 0x${(value >>> 0).toString(16)}`);

  /** Puts the test device's registers at BAR and has it write 4 bytes. */
  dma(iova: number, expected: number): number {
    const config = ECAM[this.machine.name as MachineName] + BigInt(TEST_DEVICE);
    expect(this.readl(config)).toBe(0x0005_1b36);
    this.writel(config + 0x10n, BAR);
    this.writel(config + 4n, 6);
    const registers: [number, number][] = [
      [0x04, iova],
      [0x08, 0],
      [0x1c, expected],
      [0x20, 0],
      [0x0c, 4],
      [0x14, 1],
    ];
    for (const [at, value] of registers) this.writel(BAR + at, value);
    expect(this.readl(BAR + 0x10)).toBe(0xffff_fffe);
    this.readl(BAR);
    return this.readl(BAR + 0x10);
  }
}
