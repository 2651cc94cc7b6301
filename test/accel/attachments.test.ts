import { beforeEach, describe, expect, test } from 'vitest';
import { Attachments } from '../../src/accel/attachments.ts';
import type { AttachmentPoint, HostDevice } from '../../src/host/host.ts';

/* Who reaches a space, where the host refuses what it is asked for: a device is where the driver says. */

interface FakeDevice extends HostDevice {
  attachment: object | null;
  closed: boolean;
}

/** Host calls that are refused: the place's name and the device's. */
const refused = new Set<string>();
/** Calls that were made, in order. */
let calls: string[];

function deviceOf(name: string, iommuGroup: string | null = null): FakeDevice {
  const device: FakeDevice = {
    name,
    iommuGroup,
    attachment: null,
    closed: false,
    detach: () => leave('device', device),
    close: () => {
      device.closed = true;
      device.attachment = null;
      return null;
    },
    [Symbol.dispose]: () => {},
  };
  return device;
}

function leave(place: string, device: FakeDevice): number {
  calls.push(`${place} leaves ${device.name}`);
  if (refused.has(`${place} leaves ${device.name}`)) return -5;
  device.attachment = null;
  return 0;
}

function spaceOf(name: string): AttachmentPoint {
  const space: AttachmentPoint = {
    attach: (device) => {
      calls.push(`${name} takes ${device.name}`);
      if (device.closed || refused.has(`${name} takes ${device.name}`)) return -12;
      (device as FakeDevice).attachment = space;
      return 0;
    },
    detach: (device) => leave(name, device as FakeDevice),
    error: null,
  };
  return space;
}

beforeEach(() => {
  refused.clear();
  calls = [];
});

describe('devices of a space', () => {
  test('one that the host refuses is none of them; one that it does not let go of stays', () => {
    const attachments = new Attachments(spaceOf('a'));
    const device = deviceOf('d');
    refused.add('a takes d');
    expect([attachments.admit(device), attachments.devices.size]).toEqual([-12, 0]);
    refused.clear();
    expect([attachments.admit(device), attachments.devices.size, attachments.empty]).toEqual([0, 1, false]);
    refused.add('a leaves d');
    expect([attachments.expel(device), attachments.devices.size, attachments.empty]).toEqual([-5, 1, false]);
  });

  test('one that is there already, or gone already, costs no host call', () => {
    const attachments = new Attachments(spaceOf('a'));
    const device = deviceOf('d');
    attachments.admit(device);
    expect([attachments.admit(device), calls]).toEqual([0, ['a takes d']]);
    device.attachment = null;
    expect([attachments.expel(device), calls, attachments.devices.size]).toEqual([0, ['a takes d'], 0]);
  });

  test('those that wait are let in together; whoever is refused waits on, a closed one does not', () => {
    const attachments = new Attachments(spaceOf('a'));
    const [one, other, closed] = [deviceOf('one'), deviceOf('other'), deviceOf('closed')];
    for (const device of [one, other, closed]) attachments.await(device);
    closed.closed = true;
    expect([attachments.behind, attachments.empty]).toEqual([true, true]);
    refused.add('a takes one');
    attachments.admitAll();
    expect([attachments.behind, one.attachment, attachments.empty]).toEqual([true, null, false]);
    refused.clear();
    attachments.admitAll();
    expect(attachments.behind).toBe(false);
    expect(calls).toEqual(['a takes one', 'a takes other', 'a takes one']);
  });

  test('one that waits reaches nothing meanwhile: what it was at its guest has left', () => {
    const [a, before] = [spaceOf('a'), spaceOf('before')];
    const attachments = new Attachments(a);
    const [comes, stuck] = [deviceOf('comes'), deviceOf('stuck')];
    for (const device of [comes, stuck]) before.attach(device);
    refused.add('device leaves stuck');
    for (const device of [comes, stuck]) attachments.await(device);
    expect([comes.attachment, comes.closed, stuck.attachment, stuck.closed]).toEqual([null, false, null, true]);
    attachments.admitAll();
    expect([comes.attachment === a, stuck.attachment, attachments.behind]).toEqual([true, null, false]);
  });

  test('when all must leave, one that cannot be detached is closed with its group, and the others wait', () => {
    const attachments = new Attachments(spaceOf('a'));
    const [stuck, mate, free] = [deviceOf('stuck', '7'), deviceOf('mate', '7'), deviceOf('free')];
    for (const device of [stuck, mate, free]) attachments.admit(device);
    for (const call of ['a leaves stuck', 'device leaves stuck', 'a leaves mate', 'device leaves mate']) refused.add(call);
    attachments.expelAll();
    expect([stuck.closed, mate.closed, free.closed]).toEqual([true, true, false]);
    expect([attachments.empty, attachments.behind]).toEqual([true, true]);
    attachments.admitAll();
    expect([free.attachment !== null, attachments.behind]).toEqual([true, false]);
  });

  test('move together or not at all: those that went come back', () => {
    const [a, b] = [spaceOf('a'), spaceOf('b')];
    const attachments = new Attachments(a);
    const devices = [deviceOf('one'), deviceOf('two'), deviceOf('three')];
    for (const device of devices) attachments.admit(device);
    refused.add('b takes two');
    calls = [];
    expect(attachments.moveTo(b)).toBe(false);
    expect(devices.every(({ attachment }) => attachment === a)).toBe(true);
    expect(calls).toEqual(['b takes one', 'b takes two', 'a takes one']);
    refused.clear();
    expect(attachments.moveTo(b)).toBe(true);
    expect(devices.every(({ attachment }) => attachment === b)).toBe(true);
    expect([attachments.behind, attachments.empty]).toEqual([false, false]);
  });

  test('one that can neither move nor go back is blocked with its group, and waits', () => {
    const [a, b] = [spaceOf('a'), spaceOf('b')];
    const attachments = new Attachments(a);
    const [one, mate, other] = [deviceOf('one', '7'), deviceOf('mate', '7'), deviceOf('other')];
    for (const device of [one, mate, other]) attachments.admit(device);
    for (const call of ['b takes other', 'a takes one']) refused.add(call);
    expect(attachments.moveTo(b)).toBe(false);
    expect([one.attachment, other.attachment === a, attachments.behind]).toEqual([null, true, true]);
  });

  test('a device that is somebody else’s, or waits, is not moved', () => {
    const [a, b] = [spaceOf('a'), spaceOf('b')];
    const attachments = new Attachments(a);
    const [waits, gone] = [deviceOf('waits'), deviceOf('gone')];
    attachments.await(waits);
    attachments.admit(gone);
    gone.attachment = spaceOf('c');
    calls = [];
    expect([attachments.moveTo(b), calls]).toEqual([true, []]);
    attachments.forget(gone);
    attachments.admitAll();
    expect(calls).toEqual(['b takes waits']);
  });
});
