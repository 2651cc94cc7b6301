// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Linux has no DMA API on top of the RISC-V IOMMU, so its devices are never translated of its own accord. This module uses the kernel's IOMMU
 * API in its place: every virtio device gets a domain in which RAM and the harts' interrupt files are at their own addresses, so that rings,
 * buffers and messages go through tables; the DMA engine gets an empty one, so that none of its accesses is allowed.
 */
#include <linux/iommu.h>
#include <linux/module.h>
#include <linux/pci.h>
#define INCLUDE_VERMAGIC
#include <linux/vermagic.h>

MODULE_DESCRIPTION("Domains for viommu's devices");
MODULE_LICENSE("Dual BSD/GPL");
MODULE_INFO(vermagic, VERMAGIC_STRING);

/* QEMU's virt machine. */
#define RAM 0x80000000UL
#define RAM_BYTES (512UL << 20)
#define INTERRUPT_FILES 0x28000000UL
#define INTERRUPT_FILES_BYTES 0x8000UL

#define VIRTIO_VENDOR 0x1af4
#define ENGINE_VENDOR 0x1efd
#define ENGINE_DEVICE 0xed0a

static int map_machine(struct iommu_domain *domain)
{
	int error = iommu_map(domain, RAM, RAM, RAM_BYTES, IOMMU_READ | IOMMU_WRITE, GFP_KERNEL);

	/* Tables of RISC-V cannot say "write only". */
	return error ?: iommu_map(domain, INTERRUPT_FILES, INTERRUPT_FILES, INTERRUPT_FILES_BYTES, IOMMU_READ | IOMMU_WRITE, GFP_KERNEL);
}

static int attach(struct pci_dev *dev, bool maps)
{
	struct iommu_domain *domain = iommu_paging_domain_alloc(&dev->dev);
	int error;

	if (IS_ERR(domain)) {
		pci_err(dev, "viommu: note no domain: %ld\n", PTR_ERR(domain));
		return PTR_ERR(domain);
	}
	error = maps ? map_machine(domain) : 0;
	if (!error)
		error = iommu_attach_device(domain, &dev->dev);
	pci_notice(dev, "viommu: note domain %s: %d\n", maps ? "of RAM" : "of nothing", error);
	return error;
}

static int __init domains_init(void)
{
	struct pci_dev *dev = NULL;
	int error = 0;

	for_each_pci_dev(dev) {
		if (dev->vendor == VIRTIO_VENDOR)
			error = attach(dev, true);
		else if (dev->vendor == ENGINE_VENDOR && dev->device == ENGINE_DEVICE)
			error = attach(dev, false);
		if (error) {
			pci_dev_put(dev);
			return error;
		}
	}
	return 0;
}
module_init(domains_init);

/* What modpost would write. It stays until the machine is off: there is no way out. */
__visible struct module __this_module __section(".gnu.linkonce.this_module") = {
	.name = KBUILD_MODNAME,
	.init = init_module,
	.arch = MODULE_ARCH_INIT,
};
