import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterAll, describe, expect, test } from 'vitest';
import { Recorder } from '../../src/cli/boot/record/recorder.ts';
import { RecordingMemory } from '../../src/cli/boot/record/recording-memory.ts';
import { RecordingFile } from '../../src/cli/recording.ts';
import { READ, READ_WRITE, WRITE } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { NO_PASID } from '../../src/target/target.ts';
import { VtdIommu } from '../../src/target/vtd/index.ts';
import { vtdMessage } from '../../src/vmm/units/index.ts';
import { contextDevice, Guest, iotlbPages, wait } from '../target/vtd/guest.ts';
import { runCli } from './run-cli.ts';

const folder = mkdtempSync(join(tmpdir(), 'viommu-recorder-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const RAM_PAGES = 1024;
const DEVICE = 0x28;
const DID = 1;
const BASE = 0x2_0000;

/** A driver that maps, does DMA, unmaps and goes wrong, on a VT-d unit that is recorded. */
async function recorded(): Promise<string> {
  const buffer = new SharedArrayBuffer(RAM_PAGES * 4096);
  const guest = new Guest({}, RAM_PAGES, {}, new GuestMemory([{ gpa: 0n, buffer }]));
  const file = join(folder, 'run.ndjson.gz');
  const recording = new RecordingFile(file);
  const recorder = new Recorder(recording);
  recorder.memory.add({ gpa: 0n, buffer });
  recorder.machine('vtd', 0n, [DEVICE], { cachingMode: 1, scalableMode: 0, interruptRemapping: 1 });
  const options = { cachingMode: true, extendedInterruptMode: false, postedInterrupts: false };
  const unit = new VtdIommu(options, { memory: recorder.memory, sendInterrupt: recorder.sending(() => {}) });
  unit.addEndpoint(DEVICE);
  const target = recorder.target(unit);
  const registers = recorder.registers(unit);
  // What the driver of the tests speaks to.
  guest.iommu = new Proxy(unit, {
    get: (of, name) => (name === 'read' ? registers.read : name === 'write' ? registers.write : Reflect.get(of, name, of)),
  });
  const { root, table } = guest.secondStage();
  guest.setContext(DEVICE, { root, did: DID });
  guest.start();
  guest.submit(contextDevice(DEVICE), wait());
  // Interrupts of faults.
  registers.write(0x3c, 4, 0x31n);
  registers.write(0x40, 4, 0xfee0_0000n);
  registers.write(0x38, 4, 0n);
  for (let round = 0; round < 8; round++) {
    table.map(BASE + round, 600 + 3 * round, 1, READ_WRITE);
    guest.submit(iotlbPages(DID, BASE + round), wait());
    for (const access of [READ, WRITE]) target.translate(DEVICE, NO_PASID, 0, ((BASE + round) << 12) | 0x10, access);
  }
  table.unmap(BASE, 1);
  guest.submit(iotlbPages(DID, BASE), wait());
  target.translate(DEVICE, NO_PASID, 0, BASE << 12, WRITE);
  recorder.message(
    DEVICE,
    0xfee0_1000n,
    0x41,
    () => {},
    (deliver) => vtdMessage(unit, DEVICE, 0xfee0_1000n, 0x41, deliver),
  );
  recorder.reset(() => unit.reset());
  await recording.end();
  return file;
}

describe('a recorded run', () => {
  test('replays with no difference, in software and on a device that is passed through', async () => {
    const { status, out } = await runCli('replay', await recorded(), '--json');
    const result = JSON.parse(out);
    expect(result).toMatchObject({ answers: { wrong: 0 }, dma: { wrong: 0, checked: 17 }, hardwareDma: { wrong: 0, checked: 17 } });
    // The pages, and after the reset all of RAM.
    expect(result.hostCalls.map).toBe(9);
    expect(status).toBe(0);
  });

  test.each([
    ['a register', /("op":"read".*?"value":"0x)[0-9a-f]+/, '$1123456'],
    ['where a DMA lands', /("op":"dma".*?"addr":"0x)[0-9a-f]+/, '$17000'],
    ['which fault it is', /("fault":-)(\d+)/, '$11'],
    ['a word that the unit wrote', /("stored":\["0x[0-9a-f]+","0x)[0-9a-f]+/, '$1abcdef'],
    ['an interrupt that it does not send', /"op":"read"/, '"op":"read","sent":["0xfee00000","0x31"]'],
    ['an interrupt of its own', /("sent":\["0xfee00000","0x)31/, '$132'],
    ['whose process an access is', /("op":"dma","endpoint":\d+)(?=.*"addr")/, '$1,"pasid":3'],
    ['where a message goes', /("delivered":\["0xfee01000","0x)41/, '$142'],
  ])('%s that is not as recorded is told', async (_what, pattern, text) => {
    const file = join(folder, 'altered.ndjson');
    const before = gunzipSync(readFileSync(await recorded())).toString();
    expect(before).toMatch(pattern);
    writeFileSync(file, before.replace(pattern, text));
    const { status, out } = await runCli('replay', file, '--json');
    const { answers, dma, hardwareDma } = JSON.parse(out);
    expect(answers.wrong + dma.wrong + hardwareDma.wrong).toBeGreaterThan(0);
    expect(status).toBe(1);
  });

  test('a line that is no operation of such a unit is named', async () => {
    const file = join(folder, 'wrong.ndjson');
    writeFileSync(file, `${gunzipSync(readFileSync(await recorded()))}{"op":"sing"}\n`);
    const { status, err } = await runCli('replay', file);
    expect([status, err]).toEqual([1, expect.stringMatching(/wrong\.ndjson:\d+: sing: is no operation/)]);
  });
});

describe('recording memory', () => {
  function memory() {
    const recording = new RecordingMemory();
    const buffer = new SharedArrayBuffer(8192);
    recording.add({ gpa: 0n, buffer });
    return { recording, words: new BigUint64Array(buffer) };
  }

  test('says a word when it is first read, or was changed by somebody else', () => {
    const { recording, words } = memory();
    words[2] = 5n;
    recording.load32(0, 20);
    recording.load64(0, 16);
    expect(recording.takeRead()).toEqual([16n, 5n]);
    words[2] = 6n;
    recording.load16(0, 16);
    expect([recording.word[0], recording.takeRead()]).toEqual([6, [16n, 6n]]);
    recording.load64(0, 24);
    expect(recording.takeRead()).toEqual([]);
  });

  test('what it wrote itself is known; a part of a word needs the rest', () => {
    const { recording, words } = memory();
    recording.store64(0, 0, 0, 7);
    words[1] = 0x1_0000_0000n;
    recording.store32(0, 8, 9);
    recording.load64(0, 0);
    expect([recording.takeStored(), recording.takeRead()]).toEqual([
      [0n, 7n, 8n, 0x1_0000_0009n],
      [8n, 0x1_0000_0000n],
    ]);
  });

  test('copies and runs are words too; outside RAM there are none', () => {
    const { recording, words } = memory();
    words.set([1n, 2n, 3n]);
    recording.read(0, 4, new Uint8Array(16), 0, 16);
    expect(recording.takeRead()).toEqual([0n, 1n, 8n, 2n, 16n, 3n]);
    recording.forget(0, 12);
    recording.loadRun64(0, 0, new BigUint64Array(3), 3);
    expect(recording.takeRead()).toEqual([8n, 2n]);
    expect(recording.load64(0, 8192)).toBeLessThan(0);
    expect(recording.takeRead()).toEqual([]);
    expect(recording.compareExchange64(0, 0, 0, 1, 0, 4)).toBe(1);
    expect(recording.takeStored()).toEqual([0n, 4n]);
    recording.forget(0, 8);
    expect(recording.replaceAlike64(0, 8, 3, 2, 5)).toBe(1);
    expect([recording.takeRead(), recording.takeStored()]).toEqual([
      [8n, 2n],
      [8n, 5n],
    ]);
  });
});
