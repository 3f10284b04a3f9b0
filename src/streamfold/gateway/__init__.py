"""The transparent gateway: bytes pass through untouched, and every request leaves one row in the log.

Needs aiohttp and uvicorn: `pip install "streamfold[gateway,store]"`.
"""
