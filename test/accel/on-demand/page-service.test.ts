import { describe, expect, test } from 'vitest';
import { DemandSpace } from '../../../src/accel/on-demand/demand-space.ts';
import { PageService } from '../../../src/accel/on-demand/page-service.ts';
import { errno, HostError } from '../../../src/host/errno.ts';
import type { HostDevice, PageRequest } from '../../../src/host/host.ts';
import { READ } from '../../../src/memory/access.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import type { HardwareEvent } from '../../../src/target/target.ts';
import { ToySpace } from '../toy-space.ts';

/* Groups of page requests (PCIe 10.4.1), and what the guest is asked of them. */

const ENDPOINT = 8;
const LIMIT = 4096;

function start(mayClose = true) {
  const toy = new ToySpace('guest');
  const memory = new GuestMemory([{ gpa: 0n, buffer: new ArrayBuffer(64 * 4096), hostAddress: 0x1000_0000n }]);
  const space = new DemandSpace(toy, memory);
  let settled = 0;
  space.path = { changed: () => {}, settle: () => ++settled > 0 };
  const device = { name: 'vfio0' } as HostDevice;
  const queued: PageRequest[] = [];
  const responses: (readonly [cookie: number, resolved: boolean])[] = [];
  const events: HardwareEvent[] = [];
  let isFilled = true;
  const leave = () => {
    isFilled = false;
  };
  const queue = {
    read: () => queued.splice(0),
    respond: (cookie: number, resolved: boolean) => void responses.push([cookie, resolved]),
    descriptor: 3,
    close: () => {
      if (!mayClose) throw new HostError('close', errno.EBUSY);
    },
  };
  const service = new PageService(queue, { report: (event) => void events.push(event) }, () =>
    isFilled ? { endpoint: ENDPOINT, space } : null,
  );
  const request = (page: number, group: number, last: boolean, cookie = 0) =>
    queued.push({ device, pasid: -1, group, last, access: READ, address: BigInt(toy.base + page) << 12n, cookie });
  return { toy, space, service, request, responses, events, leave, settled: () => settled };
}

describe('a group of page requests', () => {
  test('is served with its last one, by one flush and one answer', () => {
    const { toy, service, request, responses, settled } = start();
    toy.set(0, 4, 5, READ);
    request(0, 1, false);
    request(1, 1, false);
    service.poll();
    expect([responses, settled()]).toEqual([[], 0]);
    request(2, 1, true, 7);
    service.poll();
    expect([responses, settled()]).toEqual([[[7, true]], 1]);
  });

  test('of which the guest has mapped a part is its page request for the rest, and has the guest’s answer', () => {
    const { toy, space, service, request, responses, events } = start();
    toy.set(0, 1, 5, READ);
    request(0, 1, false);
    request(1, 1, false);
    request(2, 1, true, 7);
    service.poll();
    const asked = events.map(
      (event) => event.kind === 'page-request' && [event.group, event.last, Number(event.address >> 12n) - toy.base],
    );
    expect(asked).toEqual([
      [1, false, 1],
      [1, true, 2],
    ]);
    expect(responses).toEqual([]);
    toy.set(1, 2, 9, READ);
    service.answered(ENDPOINT, -1, 1, 'success');
    expect([responses, space.resident > 0]).toEqual([[[7, true]], true]);
    service.answered(ENDPOINT, -1, 1, 'success');
    expect(responses.length).toBe(1);
  });

  test('that the guest refuses, or is asked for anew, hears that there is no page; one whose device has left hears nothing', () => {
    const { service, request, responses } = start();
    request(1, 1, true, 7);
    request(1, 2, true, 8);
    request(1, 2, true, 9);
    request(1, 3, true, 10);
    service.poll();
    expect(responses).toEqual([[8, false]]);
    service.answered(ENDPOINT, -1, 1, 'invalid');
    expect(responses.at(-1)).toEqual([7, false]);
    service.forget(ENDPOINT, -1);
    for (const group of [2, 3]) service.answered(ENDPOINT, -1, group, 'success');
    expect(responses.length).toBe(2);
  });

  test('whose last one never comes takes its room until the endpoint is somebody else’s', () => {
    const { toy, service, request, responses } = start();
    toy.set(0, 4, 5, READ);
    for (let group = 1; group <= LIMIT; group++) request(0, group, false);
    // No room: of this group only the last one is heard.
    request(1, 0, false);
    request(0, 0, true, 7);
    service.poll();
    expect(responses).toEqual([[7, true]]);
    service.forget(ENDPOINT, -1);
    // Room for all of them again: the page that the guest has not mapped is heard of, and asked for.
    for (let group = 1; group < LIMIT; group++) request(0, group, false);
    request(9, 0, false);
    request(0, 0, true, 8);
    service.poll();
    expect(responses).toEqual([[7, true]]);
  });

  test('is one of so many that wait for the guest, and no more', () => {
    const { service, request, responses, events } = start();
    for (let group = 0; group <= LIMIT; group++) request(1, group, true, 100 + group);
    service.poll();
    expect([events.length, responses]).toEqual([LIMIT, [[100 + LIMIT, false]]]);
  });

  test('of a device whose pages nobody fills any more hears that there is none, with its last one', () => {
    const { service, request, responses, events, leave } = start();
    request(1, 2, true, 5);
    service.poll();
    leave();
    request(0, 1, false);
    request(0, 1, true, 7);
    service.poll();
    expect([responses, events.length]).toEqual([[[7, false]], 1]);
    // What the guest was asked for is answered by what it says, and nothing is filled.
    service.answered(ENDPOINT, -1, 2, 'success');
    expect(responses.at(-1)).toEqual([5, true]);
  });

  test('is forgotten with its PASID alone', () => {
    const { toy, service, request, responses } = start();
    toy.set(0, 4, 5, READ);
    request(0, 1, false);
    request(9, 2, true, 6);
    service.poll();
    service.forget(ENDPOINT, 3);
    service.forget(ENDPOINT + 1, -1);
    request(9, 1, true, 7);
    service.poll();
    // Both are the guest's to answer: the first page of the group is there, the second is not.
    service.answered(ENDPOINT, -1, 1, 'failure');
    service.answered(ENDPOINT, -1, 2, 'failure');
    expect(responses).toEqual([
      [7, false],
      [6, false],
    ]);
  });

  test('of a space without a path yet is not settled', () => {
    const { toy, space, service, request, responses } = start();
    toy.set(0, 4, 5, READ);
    space.path = null;
    request(0, 1, true, 7);
    service.poll();
    expect(responses).toEqual([[7, false]]);
  });

  test('a queue that the host does not free is no reason to stop', () => {
    expect(() => start(false).service.close()).not.toThrow();
  });
});
