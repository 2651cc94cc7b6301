import { expect, test } from 'vitest';
import { READ, READ_WRITE } from '../../../src/memory/access.ts';
import { GuestMemory, MEM_FAULT } from '../../../src/memory/guest-memory.ts';
import { DmaEngine, ENGINE, ENGINE_MAGIC, EngineCommand } from '../../../src/vmm/devices/index.ts';
import { faultName } from '../../../src/vmm/fault-name.ts';
import { FunctionDma, NOT_BUS_MASTER } from '../../../src/vmm/pci/index.ts';
import { contextDevice, Guest, iotlbGlobal, wait } from '../../target/vtd/guest.ts';

const DEVICE = 0x30;

function rig() {
  const memory = GuestMemory.ofBytes(512 * 4096);
  const guest = new Guest({}, 512, {}, memory);
  guest.iommu.addEndpoint(DEVICE);
  const { root, table } = guest.secondStage();
  guest.setContext(DEVICE, { root, did: 1 });
  table.map(0x1000, 300, 4, READ_WRITE);
  table.map(0x1004, 304, 1, READ);
  guest.start();
  guest.submit(contextDevice(DEVICE), iotlbGlobal, wait());
  const messages: [bigint, number][] = [];
  const engine = new DmaEngine({ sendMessage: (address, data) => messages.push([address, data]) });
  engine.attach(new FunctionDma(engine.fn, DEVICE, guest.iommu, memory));
  engine.fn.writeConfig(4, 2, 6);
  const put = (at: number, bytes: number, value: bigint) => engine.fn.writeBar(0, at, bytes, value);
  const get = (at: number, bytes: number) => engine.fn.readBar(0, at, bytes);
  const run = (command: number, address: bigint, bytes: number) => {
    put(ENGINE.ADDRESS, 8, address);
    put(ENGINE.BYTES, 4, BigInt(bytes));
    put(ENGINE.COMMAND, 4, BigInt(command));
    return Number(BigInt.asIntN(32, get(ENGINE.RESULT, 4)));
  };
  return { memory, engine, messages, put, get, run };
}

test('reads and writes where the IOMMU says, across pages', () => {
  const { memory, put, get, run } = rig();
  expect(get(ENGINE.ID, 4)).toBe(BigInt(ENGINE_MAGIC));
  put(ENGINE.DATA, 8, 0x1122_3344_5566_7788n);
  expect(run(EngineCommand.WRITE, 0x1000ffcn, 8)).toBe(0);
  memory.load32(0, 300 * 4096 + 0xffc);
  expect(memory.word[0]).toBe(0x5566_7788);
  memory.load32(0, 301 * 4096);
  expect(memory.word[0]).toBe(0x1122_3344);
  put(ENGINE.DATA, 8, 0n);
  expect(run(EngineCommand.READ, 0x1000ffcn, 8)).toBe(0);
  expect(get(ENGINE.DATA, 8)).toBe(0x1122_3344_5566_7788n);
});

test('what is forbidden is told with the target’s own reason, and counted', () => {
  const { run, get } = rig();
  expect(faultName(run(EngineCommand.WRITE, 0x1004000n, 8))).toMatch(/^vtd /);
  expect(faultName(run(EngineCommand.READ, 0xdead_0000n, 8))).toMatch(/^vtd /);
  expect(run(EngineCommand.READ, 0x1004000n, 8)).toBe(0);
  expect([get(ENGINE.DONE, 4), get(ENGINE.FAULTS, 4)]).toEqual([3n, 2n]);
});

test('an atomic adds, and gives what was there', () => {
  const { memory, put, get, run } = rig();
  memory.store64(0, 300 * 4096, 0, 40);
  put(ENGINE.OPERAND, 8, 2n);
  expect(run(EngineCommand.FETCH_ADD, 0x1000000n, 8)).toBe(0);
  memory.load64(0, 300 * 4096);
  expect([memory.word[0], get(ENGINE.DATA, 8)]).toEqual([42, 40n]);
  expect(run(EngineCommand.FETCH_ADD, 0x1004000n, 8)).toBeLessThan(0);
});

test('a request with PASID is none without', () => {
  const { put, run } = rig();
  put(ENGINE.PASID, 4, 5n);
  expect(run(EngineCommand.READ, 0x1000000n, 8)).toBeLessThan(0);
});

test('sends a message of its table; does nothing without bus mastering', () => {
  const { engine, messages, put, run } = rig();
  put(0x2010, 8, 0xfee0_0000n);
  put(0x2018, 4, 0x33n);
  put(0x201c, 4, 0n);
  engine.fn.writeConfig(engine.fn.capabilityOffsets.at(-1)! + 2, 2, 0x8000);
  expect(run(EngineCommand.SIGNAL, 1n, 0)).toBe(0);
  expect(messages).toEqual([[0xfee0_0000n, 0x33]]);
  engine.fn.writeConfig(4, 2, 2);
  expect(run(EngineCommand.READ, 0x1000000n, 8)).toBe(NOT_BUS_MASTER);
  expect(NOT_BUS_MASTER).not.toBe(MEM_FAULT);
});
