"""Where a call is remembered, and who may write."""

import tempfile
import unittest
from pathlib import Path

from state import HttpStore, MemoryStore, Notebook, StateLost
from tests.fake_segue import TOKEN, FakeSegue


class State(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.segue = FakeSegue()
        url = await self.segue.start()
        self.addAsyncCleanup(self.segue.stop)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.token = Path(folder.name) / "token"
        self.token.write_text(f"{TOKEN}\n")
        self.store = HttpStore(url, self.token)
        self.addAsyncCleanup(self.store.close)

    async def test_what_one_connection_wrote_the_next_one_reads(self):
        for store in (self.store, MemoryStore()):
            first, second = Notebook(store, "CA1"), Notebook(store, "CA1")
            self.assertIsNone(await first.read())
            self.assertTrue(await first.write({"turns": [1]}))
            self.assertTrue(await first.write({"turns": [1, 2]}))
            self.assertEqual((await second.read())["turns"], [1, 2])
            self.assertTrue(await second.write({"turns": [1, 2, 3]}))

    async def test_the_earlier_connection_cannot_overwrite_the_later_one(self):
        first, second = Notebook(self.store, "CA1"), Notebook(self.store, "CA1")
        await first.write({"turns": ["first"]})
        await second.read()
        await second.write({"turns": ["second"]})
        self.assertFalse(await first.write({"turns": ["too late"]}))
        self.assertEqual(self.segue.states["CA1"][0]["turns"], ["second"])

    async def test_a_write_whose_answer_was_lost_does_not_lock_its_own_writer_out(self):
        notebook = Notebook(self.store, "CA1")
        await notebook.write({"turns": [1]})
        self.segue.lose = 1
        with self.assertRaises(StateLost):
            await notebook.write({"turns": [1, 2]})
        self.assertTrue(await notebook.write({"turns": [1, 2, 3]}))
        self.assertEqual(self.segue.states["CA1"][0]["turns"], [1, 2, 3])

    async def test_a_state_that_expired_is_begun_again(self):
        notebook = Notebook(self.store, "CA1")
        await notebook.write({"turns": [1]})
        self.segue.states.clear()
        self.assertTrue(await notebook.write({"turns": [1, 2]}))

    async def test_a_replaced_token_is_used_at_once_and_a_wrong_one_is_told(self):
        self.token.write_text("wrong")
        with self.assertRaisesRegex(StateLost, "401"):
            await self.store.get("CA1")
        self.token.write_text(TOKEN)
        self.assertIsNone(await self.store.get("CA1"))

    async def test_a_store_that_is_gone_is_told(self):
        await self.segue.stop()
        with self.assertRaises(StateLost):
            await self.store.put("CA1", {}, None)
