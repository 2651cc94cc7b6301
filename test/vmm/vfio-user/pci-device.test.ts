import { describe, expect, test } from 'vitest';
import { GuestMemory } from '../../../src/memory/index.ts';
import { PciFunction } from '../../../src/vmm/pci/index.ts';
import { PciVfioDevice } from '../../../src/vmm/vfio-user/index.ts';

/** A device, and how often its client was told of INTx. */
function rig() {
  const device = new PciVfioDevice(new PciFunction({ vendor: 1, device: 1, classCode: 0xff0000, interruptPin: 1 }));
  const told: number[] = [];
  const client = { memory: new GuestMemory([]), write: () => {}, trigger: (irq: number) => told.push(irq) > 0 };
  device.connected(client);
  return { device, client, told };
}

describe('INTx, which its client masks once it is told', () => {
  test('a level is told once until it is unmasked, and again while it lasts', () => {
    const { device, told } = rig();
    device.setIntx(true);
    device.setIntx(true);
    expect(told).toEqual([0]);
    device.maskIrq(0, false);
    expect(told).toEqual([0, 0]);
    device.setIntx(false);
    device.maskIrq(0, false);
    expect(told).toHaveLength(2);
  });

  test('an edge that comes while it is masked is told behind it, once', () => {
    const { device, told } = rig();
    for (let i = 0; i < 3; i++) device.pulseIntx();
    expect(told).toHaveLength(1);
    device.maskIrq(0, false);
    expect(told).toHaveLength(2);
    device.maskIrq(0, false);
    expect(told).toHaveLength(2);
  });

  test.each([
    ['a reset', ({ device }: ReturnType<typeof rig>) => device.reset()],
    [
      'another client',
      ({ device, client }: ReturnType<typeof rig>) => {
        device.disconnected();
        device.connected(client);
      },
    ],
  ])('%s leaves nothing masked', (_, happens) => {
    const it = rig();
    it.device.setIntx(true);
    it.device.setIntx(false);
    expect(it.told).toHaveLength(1);
    happens(it);
    it.device.setIntx(true);
    expect(it.told).toHaveLength(2);
  });

  test('the mask of another interrupt is none of it', () => {
    const { device, told } = rig();
    device.maskIrq(1, true);
    device.setIntx(true);
    expect(told).toEqual([0]);
  });
});
