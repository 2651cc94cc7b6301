import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fc, test as property } from '@fast-check/vitest';
import { afterAll, describe, expect, test } from 'vitest';
import { simRig } from '../../src/cli/replay/rig-sim.ts';
import { type ReplayResult, replay } from '../../src/cli/replay/run.ts';
import { openHost } from '../../src/host/registry.ts';
import { simKernel } from '../../src/host/sim/index.ts';
import { addressOfPfn } from '../../src/memory/address.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { VirtioIommu } from '../../src/target/virtio-iommu/index.ts';
import { type EmulatedDevice, Machine, recordTo } from '../../src/vmm/index.ts';
import { reaching } from '../reaching.ts';
import { amdSubject } from '../target/amd/subject.ts';
import { runsOf } from '../target/hardware.ts';
import { riscvSubject } from '../target/riscv/subject.ts';
import { smmuSubject } from '../target/smmuv3/subject.ts';
import { spaprSubject } from '../target/spapr/subject.ts';
import type { TargetSubject } from '../target/suite.ts';
import { virtioSubjects } from '../target/virtio-iommu/subject.ts';
import { legacySubject, scalableSubject } from '../target/vtd/subject.ts';
import { zpciSubject } from '../target/zpci/subject.ts';

const folder = mkdtempSync(join(tmpdir(), 'viommu-record-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Replays lines, on iommufd of the simulated kernel unless told otherwise. */
async function replayed(lines: readonly string[], host = 'iommufd', path = 'auto'): Promise<ReplayResult> {
  const file = join(folder, 'machine.ndjson');
  writeFileSync(file, lines.join(''));
  const rig = simRig(host, 8);
  try {
    return await replay({ file, path }, rig);
  } finally {
    rig.close();
  }
}

const details = ({ answers, dma, hardwareDma }: ReplayResult) => [answers, dma, hardwareDma].flatMap((tally) => tally.details);

function recording(machine: Machine): { lines: string[]; dispose: () => void } {
  const lines: string[] = [];
  return { lines, dispose: recordTo(machine, { write: (text) => lines.push(text) }) };
}

/** Reads and writes at the first, the last and the page behind of what a device reaches. */
function useDevice(device: EmulatedDevice, pages: readonly number[]): void {
  const bytes = new Uint8Array(8);
  for (const page of pages) {
    device.read(addressOfPfn(page) + 8n, bytes);
    device.write(addressOfPfn(page) + 0x10n, bytes);
  }
}

const subjects = [
  spaprSubject,
  virtioSubjects[0]!,
  riscvSubject,
  legacySubject,
  scalableSubject,
  amdSubject,
  smmuSubject,
  zpciSubject,
] as const;

describe('random programs of a guest, recorded and replayed', () => {
  for (const subject of subjects as readonly TargetSubject<unknown>[]) {
    const reached = reaching(`record ${subject.name}`, 'an access that is done', 'an access that is refused');
    property.prop([fc.array(subject.step, { minLength: 1, maxLength: 15 }), fc.nat(4)], { numRuns: 4 })(
      `${subject.name}: nothing is wrong`,
      async (steps, before) => {
        reached();
        const fixture = subject.make();
        const { target, memory, endpoints } = fixture;
        const machine = new Machine({ memory, target });
        const devices = endpoints.filter((endpoint) => target.knows?.(endpoint) !== false).map((endpoint) => machine.emulate(endpoint));
        // What is there already is written first.
        for (const step of [...subject.mapping, ...steps.slice(0, before)]) fixture.run(step);
        const { lines } = recording(machine);
        for (const step of [null, ...steps.slice(before)]) {
          if (step !== null) fixture.run(step);
          for (const device of devices) {
            // The embedder took it off the target, so its device is to be unplugged too.
            if (target.knows?.(device.endpoint) === false) continue;
            const space = target.spaceOf(device.endpoint);
            const runs = space === null ? [] : runsOf(space);
            useDevice(device, [0x123, ...runs.slice(0, 8).flatMap(({ iova, pages }) => [iova, iova + pages - 1, iova + pages])]);
          }
        }
        machine.close();
        if (lines.some((line) => line.includes('"addr"'))) reached('an access that is done');
        if (lines.some((line) => line.includes('"fault"'))) reached('an access that is refused');
        for (const host of ['iommufd', 'vfio-type1']) {
          const result = await replayed(lines, host);
          expect(details(result)).toEqual([]);
          expect(result.dma.checked).toBeGreaterThan(0);
          expect(result.hardwareDma.checked).toBeGreaterThan(0);
        }
      },
    );
  }
});

function machineOf(kernel: ReturnType<typeof simKernel> | null) {
  const ram = kernel?.allocate(1 << 20);
  const memory = ram ? new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]) : GuestMemory.ofBytes(1 << 20);
  const target = new VirtioIommu({ memory, bootBypass: false });
  for (const endpoint of [8, 16, 24]) target.addEndpoint(endpoint);
  target.negotiate();
  const machine = new Machine({ memory, target, ...(kernel && { host: openHost('iommufd', kernel) }) });
  return { memory, target, machine };
}

/** A machine with a host: what the host answered is compared too. */
function recordedOverHost(): string[] {
  const kernel = simKernel();
  const { target, machine } = machineOf(kernel);
  machine.passThrough(8, kernel.device().path);
  const nic = machine.emulate(16);
  target.attach(1, 8);
  target.attach(1, 16);
  const { lines, dispose } = recording(machine);
  target.map(1, 0x1000n, 0x4fffn, 0x8000n, 3);
  useDevice(nic, [1, 4, 5]);
  target.unmap(1, 0x1000n, 0x4fffn);
  useDevice(nic, [1]);
  // A device that comes, goes, and comes again; one whose space was filled while nobody reached it.
  target.attach(2, 24);
  target.map(2, 0x1000n, 0x1fffn, 0x5000n, 1);
  useDevice(machine.emulate(24), [1]);
  machine.remove(24);
  target.map(2, 0x2000n, 0x2fffn, 0x6000n, 3);
  useDevice(machine.emulate(24), [1, 2]);
  target.reset();
  useDevice(nic, [1]);
  dispose();
  useDevice(nic, [1]);
  machine.close();
  return lines;
}

describe('a machine with a host', () => {
  test.each(['iommufd', 'vfio-type1'])('nothing is wrong on %s, and results are compared', async (host) => {
    const result = await replayed(recordedOverHost(), host);
    expect(details(result)).toEqual([]);
    expect(result).toMatchObject({ target: 'spaces', host });
    expect(result.hostCalls.map).toBeGreaterThan(3);
    expect(result.answers.checked).toBeGreaterThan(5);
    expect(result.dma.checked).toBe(16);
    expect(result.hardwareDma.checked).toBe(16);
  });

  test.each([
    ['a result', /("op":"flush","ret":)0/, '$1-28'],
    ['where an access goes', /("op":"dma".*"addr":"0x)[0-9a-f]+/, '$17000'],
    ['what a run means', /("op":"changed".*"runs":\[\d+),\d+/, '$1,9'],
    ['that an access is refused', /"addr":"0x[0-9a-f]+"/, '"fault":-131073'],
  ])('%s changed in the recording is found', async (_, from, to) => {
    const lines = recordedOverHost();
    const at = lines.findIndex((line) => from.test(line));
    lines[at] = lines[at]!.replace(from, to);
    expect(details(await replayed(lines))).not.toEqual([]);
  });

  test.each([
    ['a space that was not described', '{"op":"attach","endpoint":8,"space":77}', /attach: no space 77 was described/],
    ['runs that are none', '{"op":"changed","space":0,"first":0,"last":1,"runs":[1,2]}', /changed: 'runs' are four numbers each/],
    ['runs that overlap', '{"op":"changed","space":0,"first":0,"last":9,"runs":[1,2,2,3,2,3,1,3]}', /changed: a run overlaps another/],
    ['another operation', '{"op":"put"}', /put: is no operation of a recorded machine/],
  ])('%s is an error that names the line', async (_, line, message) => {
    const lines = recordedOverHost();
    await expect(replayed([...lines, line])).rejects.toThrow(message);
  });
});

describe('recordTo', () => {
  test('guest memory that comes and goes is said, and a replay has it', async () => {
    const kernel = simKernel();
    const { memory, target, machine } = machineOf(kernel);
    machine.passThrough(8, kernel.device().path);
    const nic = machine.emulate(16);
    const { lines, dispose } = recording(machine);
    for (const endpoint of [8, 16]) target.attach(1, endpoint);
    const dimm = kernel.allocate(1 << 16);
    memory.add({ gpa: 0x1_0000_0000n, buffer: dimm.buffer, hostAddress: dimm.address });
    target.map(1, 0x1000n, 0x1fffn, 0x1_0000_3000n, 3);
    useDevice(nic, [1]);
    target.unmap(1, 0x1000n, 0x1fffn);
    memory.remove(0x1_0000_0000n);
    useDevice(nic, [1]);
    dispose();
    memory.add({ gpa: 0x1_0000_0000n, buffer: dimm.buffer, hostAddress: dimm.address });
    machine.close();
    expect(lines.filter((line) => line.startsWith('{"op":"ram"'))).toEqual([
      '{"op":"ram","ram":[{"gpa":"0x0","bytes":"0x100000"},{"gpa":"0x100000000","bytes":"0x10000"}]}\n',
      '{"op":"ram","ram":[{"gpa":"0x0","bytes":"0x100000"}]}\n',
    ]);
    const result = await replayed(lines);
    expect(details(result)).toEqual([]);
    expect([result.dma.checked, result.hardwareDma.checked]).toEqual([4, 4]);
    // Without the lines the mapping leads nowhere.
    expect(details(await replayed(lines.filter((line) => !line.startsWith('{"op":"ram"'))))).not.toEqual([]);
  });

  test('says what a process reaches when it is first used, and its accesses are compared in software', async () => {
    const fixture = scalableSubject.make();
    const machine = new Machine({ memory: fixture.memory, target: fixture.target });
    const device = machine.emulate(8);
    const { lines } = recording(machine);
    device.read(0x1000n, new Uint8Array(8), 3);
    expect(lines.join('')).toMatch(/"op":"attach","endpoint":8,"pasid":3/);
    expect(details(await replayed(lines))).toEqual([]);
  });

  test('a machine that nobody records any more writes nothing', () => {
    const { machine } = machineOf(null);
    const { lines, dispose } = recording(machine);
    dispose();
    const before = lines.length;
    useDevice(machine.emulate(8), [1]);
    expect(lines.length).toBe(before);
  });

  test('what is no machine, a closed one, and no stream', () => {
    const { machine } = machineOf(null);
    expect(() => recordTo({} as never, { write: () => {} })).toThrow(/^recordTo: machine is no Machine$/);
    expect(() => recordTo(machine, {} as never)).toThrow(/^recordTo: stream is no stream$/);
    machine.close();
    expect(() => recordTo(machine, { write: () => {} })).toThrow(/^Machine: it is closed$/);
  });
});
