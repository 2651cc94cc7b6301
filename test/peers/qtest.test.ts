import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { bdf, ecamConfig, PciFunction, portConfig } from './pci.ts';
import { Qtest } from './qtest.ts';
import { Edu, IommuTestdev, TESTDEV_PATTERN } from './testdev.ts';

describe('QEMU without an IOMMU: what a device writes lands where it says', () => {
  let qemu: Qtest;
  let dma: IommuTestdev;
  let edu: Edu;
  beforeAll(async () => {
    const devices = ['-device', 'iommu-testdev,addr=4.0', '-device', 'edu,addr=5.0,dma_mask=0xffffffffffffffff'];
    qemu = await Qtest.start('x86_64', ['-machine', 'q35', '-m', '256M', ...devices]);
    const config = portConfig(qemu);
    dma = new IommuTestdev(qemu, 0xe000_0000);
    edu = new Edu(qemu, 0xe010_0000);
    await dma.setUp(await PciFunction.find(config, bdf(0, 4, 0)));
    await edu.setUp(await PciFunction.find(config, bdf(0, 5, 0)));
  });
  afterAll(() => qemu?.dispose());

  test('is the version that the comparisons are made with', () => {
    expect(qemu.version).toMatch(/^QEMU emulator version 11\.1\./);
  });

  test('memory keeps what was written, at every width', async () => {
    qemu.writeq(0x1000, 0x8877_6655_4433_2211n);
    expect(await qemu.readl(0x1004)).toBe(0x8877_6655);
    expect(await qemu.readw(0x1002)).toBe(0x4433);
    expect(await qemu.readb(0x1007)).toBe(0x88);
    expect(await qemu.readq(0x1000)).toBe(0x8877_6655_4433_2211n);
    qemu.writeb(0x1000, 0x1ff);
    qemu.writew(0x1002, -2);
    qemu.writel(0x1004, -1);
    expect(await qemu.readq(0x1000)).toBe(0xffff_ffff_fffe_22ffn);
    const bytes = Uint8Array.from({ length: 5000 }, (_, i) => i * 7);
    qemu.write(0x2001, bytes);
    qemu.fill(0x2001, 2, 0xaa);
    expect(await qemu.read(0x2000, 5)).toEqual(Buffer.from([0, 0xaa, 0xaa, 14, 21]));
    expect(await qemu.read(0x2004, 4000)).toEqual(Buffer.from(bytes.subarray(3, 4003)));
  });

  test('ten thousand accesses in one pipeline answer in order', async () => {
    for (let i = 0; i < 5000; i++) qemu.writel(0x10_0000 + 4 * i, i);
    const values = await Promise.all(Array.from({ length: 5000 }, (_, i) => qemu.readl(0x10_0000 + 4 * i)));
    expect(values).toEqual(Array.from({ length: 5000 }, (_, i) => i));
  });

  test('iommu-testdev tells done, elsewhere and refused apart', async () => {
    expect(await dma.write(0x3000, 0x3000)).toBe('done');
    expect(await qemu.readl(0x3000)).toBe(TESTDEV_PATTERN);
    expect(await dma.write(0x3000, 0x4000)).toBe('elsewhere');
    expect(await dma.write(0x80_0000_0000n, 0x4000)).toBe('refused');
  });

  test('edu reads and writes', async () => {
    await qemu.writeq(0x5000, 0x1122_3344_5566_7788n);
    await edu.fetch(0x5000, 8);
    await edu.store(0x6004, 8);
    expect(await qemu.readq(0x6004)).toBe(0x1122_3344_5566_7788n);
  });

  test('a bad command rejects and names the line', async () => {
    await expect(qemu.command('frobnicate 1')).rejects.toThrow(/frobnicate 1.*FAIL/s);
    expect(await qemu.readl(0x10_0004)).toBe(1);
  });
});

describe('the other machines', () => {
  test.each([
    ['aarch64', ['-machine', 'virt,gic-version=3,its=off', '-cpu', 'max'], 0x40_1000_0000n, 0x1000_0000, 0x4000_0000],
    ['riscv64', ['-machine', 'virt,aia=aplic-imsic', '-bios', 'none'], 0x3000_0000n, 0x4000_0000, 0x8000_0000],
  ] as const)('%s: ECAM, a BAR and DMA', async (arch, args, ecam, bar, ram) => {
    await using qemu = await Qtest.start(arch, [...args, '-m', '256M', '-device', 'iommu-testdev,addr=4.0']);
    const dma = new IommuTestdev(qemu, bar);
    await dma.setUp(await PciFunction.find(ecamConfig(qemu, ecam), bdf(0, 4, 0)));
    expect(await dma.write(ram + 0x1000, ram + 0x1000)).toBe('done');
    expect(await qemu.readl(ram + 0x1000)).toBe(TESTDEV_PATTERN);
  });
});

test('QEMU that does not start says why, and one that dies rejects what waits', async () => {
  await expect(Qtest.start('x86_64', ['-machine', 'nonsense'])).rejects.toThrow(/nonsense/);
  const qemu = await Qtest.start('x86_64', ['-machine', 'none']);
  const gone = qemu.command('clock_step 1');
  await qemu.dispose();
  await Promise.allSettled([gone]);
  await expect(qemu.readl(0)).rejects.toThrow(/QEMU ended/);
});
