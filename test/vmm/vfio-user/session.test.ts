import { beforeEach, describe, expect, test } from 'vitest';
import { PciFunction } from '../../../src/vmm/pci/index.ts';
import type { Descriptors } from '../../../src/vmm/vfio-user/descriptors.ts';
import { DmaRegions } from '../../../src/vmm/vfio-user/dma-regions.ts';
import { PciVfioDevice } from '../../../src/vmm/vfio-user/index.ts';
import { Session } from '../../../src/vmm/vfio-user/session.ts';
import { Command, Flags, SetIrqs } from '../../../src/vmm/vfio-user/spec.ts';
import { dmaMap, version, words } from './client.ts';

/* What becomes of descriptors: each that came is closed once, whatever the message was, and what a file is mapped for is unmapped once. */

const [EINVAL, EEXIST, EMFILE] = [22, 17, 24];
const NO_EVENTFD = 77;

describe('descriptors that came with a message', () => {
  let open: Set<number>;
  let mapped: Set<bigint>;
  let mapFails: number;
  let session: Session;
  let regions: DmaRegions;
  let errors: number[];

  beforeEach(() => {
    open = new Set();
    mapped = new Set();
    mapFails = 0;
    errors = [];
    let next = 0x1000_0000n;
    const descriptors: Descriptors = {
      sizeOf: () => 1 << 20,
      map: (_descriptor, bytes) => {
        if (mapFails < 0) return mapFails;
        const address = next;
        next += 1n << 24n;
        mapped.add(address);
        return { buffer: new ArrayBuffer(bytes), address, release: () => expect(mapped.delete(address)).toBe(true) };
      },
      isEventfd: (descriptor) => descriptor !== NO_EVENTFD,
      signal: () => {},
      close: (descriptor) => expect(open.delete(descriptor), `descriptor ${descriptor}`).toBe(true),
    };
    regions = new DmaRegions(descriptors, null);
    const device = new PciVfioDevice(new PciFunction({ vendor: 1, device: 1, classCode: 0xff0000, interruptPin: 1 }), {});
    session = new Session(device, regions, descriptors, (bytes) => void errors.push(new DataView(bytes.buffer).getUint32(12, true)));
    send(Command.VERSION, version(0, 1));
    errors.length = 0;
  });

  function send(command: number, payload: Uint8Array, ...descriptors: number[]): void {
    for (const descriptor of descriptors) open.add(descriptor);
    session.receive({ id: 1, command, flags: 0, payload: new DataView(Uint8Array.from(payload).buffer), descriptors });
  }

  test('a mapping takes the first of them; it and the others are closed', () => {
    send(Command.DMA_MAP, dmaMap(0x1000n, 0x2000, 0n), 5, 6, 7);
    expect([errors, [...open], mapped.size, regions.count]).toEqual([[0], [], 1, 1]);
  });

  test('a mapping that is refused keeps none', () => {
    send(Command.DMA_MAP, dmaMap(0x1000n, 0x2001, 0n), 5);
    mapFails = -EMFILE;
    send(Command.DMA_MAP, dmaMap(0x1000n, 0x2000, 0n), 6, 7);
    mapFails = 0;
    send(Command.DMA_MAP, dmaMap(0x1000n, 0x2000, 0n), 8);
    send(Command.DMA_MAP, dmaMap(0x2000n, 0x2000, 0n), 9);
    expect([errors, [...open], mapped.size]).toEqual([[EINVAL, EMFILE, 0, EEXIST], [], 1]);
  });

  test('those of a command that takes none, of an unknown one, and of an answer', () => {
    send(Command.DEVICE_GET_INFO, words(16, 0, 0, 0), 5, 6);
    send(99, words(0), 7);
    open.add(8);
    session.receive({ id: 1, command: 1, flags: Flags.REPLY, payload: new DataView(new ArrayBuffer(0)), descriptors: [8] });
    expect([...open]).toEqual([]);
  });

  test('eventfds are kept until others take their place, or the client ends', () => {
    const trigger = SetIrqs.EVENTFD | SetIrqs.TRIGGER;
    send(Command.DEVICE_SET_IRQS, words(20, trigger, 0, 0, 1), 5);
    expect([...open]).toEqual([5]);
    send(Command.DEVICE_SET_IRQS, words(20, trigger, 0, 0, 1), 6);
    // More than there are vectors.
    send(Command.DEVICE_SET_IRQS, words(20, trigger, 0, 0, 2), 7, 8);
    // One of another kind, which a write could block on.
    send(Command.DEVICE_SET_IRQS, words(20, trigger, 0, 0, 1), NO_EVENTFD);
    expect([errors, [...open]]).toEqual([[0, 0, EINVAL, EINVAL], [6]]);
    session.close();
    expect([...open]).toEqual([]);
  });

  test('what is unmapped, or the end of the client, unmaps the files', () => {
    for (const at of [0x1000n, 0x4000n, 0x8000n]) send(Command.DMA_MAP, dmaMap(at, 0x1000, 0n), 5);
    expect(mapped.size).toBe(3);
    send(Command.DMA_UNMAP, words(24, 0, 0x1000, 0, 0x1000, 0));
    expect([mapped.size, regions.count, regions.memory.regions.length]).toEqual([2, 2, 2]);
    session.close();
    expect([mapped.size, regions.count, regions.memory.regions.length, [...open]]).toEqual([0, 0, 0, []]);
  });
});

test('writes of the device’s own are numbered one by one, in 16 bits (message ID)', () => {
  const ids: number[] = [];
  const device = new PciVfioDevice(new PciFunction({ vendor: 1, device: 1, classCode: 0xff0000 }));
  const session = new Session(
    device,
    new DmaRegions(null, null),
    null,
    (bytes) => void ids.push(new DataView(bytes.buffer).getUint16(0, true)),
  );
  const payload = new DataView(Uint8Array.from(version(0, 1)).buffer);
  session.receive({ id: 9, command: Command.VERSION, flags: Flags.NO_REPLY, payload, descriptors: [] });
  for (let i = 0; i < 0x1_0002; i++) session.write(0n, new Uint8Array(0));
  expect([ids.length, ids.slice(0, 3), ids.slice(-3)]).toEqual([0x1_0002, [0, 1, 2], [0xffff, 0, 1]]);
});
