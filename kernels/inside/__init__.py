"""The code of ours that runs inside kernels. Standard library, ipykernel and pydantic only.

It is imported as `aigbb_inside` by the generation's own Python, never by the service.
"""
